// SPDX-License-Identifier: Apache-2.0
//
// hsic:  tr(HKH HLH) / (n-1)^2 from one pass over K and L, with O(n) extra memory:
//   <HKH, HLH> = sum K o L - (2/n) k'l + (1'k)(1'l) / n^2,     k = K 1, l = L 1,
// or the unbiased estimator of Song et al. (2012), eq. 5, on the off-diagonal parts.
// K and L must be symmetric. The one-pass formula is usable only because the Gram matrices come as
// K - 1 = expm1(-gamma D) (docs/mathematics.md); the sums accumulate in float64, in a fixed order.
//
// Backward: each gradient is one pass over the other matrix,
//   d/dK = (L - (l_i + l_j)/n + (1'l)/n^2) / (n-1)^2   (biased).
#include <array>
#include <tuple>
#include <vector>

#include "../common/stable.h"
#include "centered_product.h"
#include "vectorize.h"

namespace bido {
namespace {

using RowSums = std::array<double, 3>;  // sum K o L, sum K, sum L over one row

template <typename T>
BIDO_VECTORIZE RowSums row_sums(const T* k, const T* l, int64_t n) {
  double product[kLanes] = {}, sum_k[kLanes] = {}, sum_l[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double a = static_cast<double>(k[j + lane]), b = static_cast<double>(l[j + lane]);
      product[lane] += a * b;
      sum_k[lane] += a;
      sum_l[lane] += b;
    }
  }
  RowSums sums{};
  for (; j < n; ++j) {
    const double a = static_cast<double>(k[j]), b = static_cast<double>(l[j]);
    sums[0] += a * b;
    sums[1] += a;
    sums[2] += b;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sums[0] += product[lane];
    sums[1] += sum_k[lane];
    sums[2] += sum_l[lane];
  }
  return sums;
}

template <typename T>
double one_pass(const Tensor& k_tensor, const Tensor& l_tensor, bool unbiased, double* k_sums,
                double* l_sums) {
  const int64_t n = k_tensor.size(0);
  const T* k = static_cast<const T*>(k_tensor.const_data_ptr());
  const T* l = static_cast<const T*>(l_tensor.const_data_ptr());
  std::vector<double> products(n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [product, sum_k, sum_l] = row_sums<T>(k + i * n, l + i * n, n);
      const double k_ii = unbiased ? static_cast<double>(k[i * n + i]) : 0.0;
      const double l_ii = unbiased ? static_cast<double>(l[i * n + i]) : 0.0;
      products[i] = product - k_ii * l_ii;
      k_sums[i] = sum_k - k_ii;
      l_sums[i] = sum_l - l_ii;
    }
  });
  double product = 0, cross = 0, total_k = 0, total_l = 0;
  for (int64_t i = 0; i < n; ++i) product += products[i];
  if (!unbiased) return centered_product(product, k_sums, l_sums, n);
  for (int64_t i = 0; i < n; ++i) {
    cross += k_sums[i] * l_sums[i];
    total_k += k_sums[i];
    total_l += l_sums[i];
  }
  const auto m = static_cast<double>(n);
  return (product + total_k * total_l / ((m - 1) * (m - 2)) - 2.0 * cross / (m - 2)) / (m * (m - 3));
}

template <typename T>
BIDO_VECTORIZE void gradient_row(const T* l, T* out, const double* column_shift, double row_shift,
                                 double scale, int64_t n) {
  for (int64_t j = 0; j < n; ++j)
    out[j] = static_cast<T>(scale * (static_cast<double>(l[j]) - column_shift[j] - row_shift));
}

template <typename T>
Tensor gradient(double grad, const Tensor& other, const Tensor& other_sums, bool unbiased) {
  const int64_t n = other.size(0);
  const auto m = static_cast<double>(n);
  const T* l = static_cast<const T*>(other.const_data_ptr());
  const double* l_sums = static_cast<const double*>(other_sums.const_data_ptr());
  Tensor out_tensor = empty_like_with(other, {n, n}, other.scalar_type());
  T* out = static_cast<T*>(out_tensor.mutable_data_ptr());
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += l_sums[i];
  const double per_sum = unbiased ? 1.0 / (m - 2) : 1.0 / m;
  const double constant = unbiased ? total / ((m - 1) * (m - 2)) : total / (m * m);
  const double scale = grad / (unbiased ? m * (m - 3) : (m - 1) * (m - 1));
  std::vector<double> column_shift(n);
  for (int64_t j = 0; j < n; ++j) column_shift[j] = l_sums[j] * per_sum;
  torch::stable::parallel_for(0, n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      gradient_row<T>(l + i * n, out + i * n, column_shift.data(), column_shift[i] - constant, scale, n);
      if (unbiased) out[i * n + i] = T(0);
    }
  });
  return out_tensor;
}

void check_pair(const Tensor& k, const Tensor& l) {
  STD_TORCH_CHECK(k.dim() == 2 && k.size(0) == k.size(1) && l.dim() == 2 && l.size(0) == k.size(0) &&
                      l.size(1) == k.size(0),
                  "hsic: K and L must be square matrices of one size");
  STD_TORCH_CHECK(k.scalar_type() == l.scalar_type() &&
                      (k.scalar_type() == ScalarType::Double || k.scalar_type() == ScalarType::Float),
                  "hsic: K and L must both be float32 or both float64");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> hsic_cpu(Tensor k, Tensor l, bool unbiased) {
  check_pair(k, l);
  k = torch::stable::contiguous(k);
  l = torch::stable::contiguous(l);
  const int64_t n = k.size(0);
  Tensor value = empty_like_with(k, {}, k.scalar_type());
  Tensor k_sums = empty_like_with(k, {n}, ScalarType::Double);
  Tensor l_sums = empty_like_with(k, {n}, ScalarType::Double);
  double* ks = static_cast<double*>(k_sums.mutable_data_ptr());
  double* ls = static_cast<double*>(l_sums.mutable_data_ptr());
  if (k.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(value.mutable_data_ptr()) = one_pass<double>(k, l, unbiased, ks, ls);
  } else {
    *static_cast<float*>(value.mutable_data_ptr()) =
        static_cast<float>(one_pass<float>(k, l, unbiased, ks, ls));
  }
  return {value, k_sums, l_sums};
}

// The gradient with respect to the *other* matrix's partner: call it once per side that needs one.
Tensor hsic_backward_cpu(Tensor grad, Tensor other, Tensor other_sums, bool unbiased) {
  other = torch::stable::contiguous(other);
  other_sums = torch::stable::contiguous(other_sums);
  STD_TORCH_CHECK(grad.numel() == 1 && other_sums.scalar_type() == ScalarType::Double &&
                      other_sums.numel() == other.size(0),
                  "hsic_backward: grad must be one number and other_sums (n,) float64");
  if (other.scalar_type() == ScalarType::Double) {
    return gradient<double>(*static_cast<const double*>(grad.const_data_ptr()), other, other_sums, unbiased);
  }
  return gradient<float>(*static_cast<const float*>(grad.const_data_ptr()), other, other_sums, unbiased);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("hsic", TORCH_BOX(&bido::hsic_cpu));
  m.impl("hsic_backward", TORCH_BOX(&bido::hsic_backward_cpu));
}
