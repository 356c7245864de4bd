// SPDX-License-Identifier: Apache-2.0
//
// double_center:  H K H = K - row means - column means + total mean,  H = I - 11'/n.
// Two passes over K (means, then subtraction); the operation is self-adjoint, so it is its own
// backward. Means accumulate in float64: they are what cancels.
#include <algorithm>
#include <vector>

#include "../common/stable.h"
#include "hsic_sums.h"

namespace bido {
namespace {

template <typename T>
BIDO_VECTORIZE void subtract_means(const T* row, T* out, const double* column_shift, double row_shift,
                                   int64_t n) {
  for (int64_t j = 0; j < n; ++j)
    out[j] = static_cast<T>(static_cast<double>(row[j]) - column_shift[j] - row_shift);
}

constexpr int64_t kColumnChunk = 256;

template <typename T>
void column_means(const T* k, double* means, int64_t n) {
  torch::stable::parallel_for(0, (n + kColumnChunk - 1) / kColumnChunk, 1, [&](int64_t first, int64_t last) {
    for (int64_t j = first * kColumnChunk, end = std::min(n, last * kColumnChunk); j < end; ++j) means[j] = 0;
    const int64_t begin = first * kColumnChunk, end = std::min(n, last * kColumnChunk);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = begin; j < end; ++j) means[j] += static_cast<double>(k[i * n + j]);
    for (int64_t j = begin; j < end; ++j) means[j] /= static_cast<double>(n);
  });
}

template <typename T>
void double_center(const Tensor& k_tensor, const Tensor& out_tensor) {
  const int64_t n = k_tensor.size(0);
  const T* k = static_cast<const T*>(k_tensor.const_data_ptr());
  T* out = static_cast<T*>(out_tensor.mutable_data_ptr());
  std::vector<double> column_mean(n), row_mean(n);
  column_means<T>(k, column_mean.data(), n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row_mean[i] = row_sum<T>(k + i * n, n) / static_cast<double>(n);
  });
  const double total_mean = row_sum<double>(row_mean.data(), n) / static_cast<double>(n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      subtract_means<T>(k + i * n, out + i * n, column_mean.data(), row_mean[i] - total_mean, n);
  });
}

}  // namespace

Tensor double_center_cpu(Tensor k) {
  STD_TORCH_CHECK(k.dim() == 2 && k.size(0) == k.size(1), "double_center: K must be square");
  k = torch::stable::contiguous(k);
  Tensor out = empty_like_with(k, {k.size(0), k.size(1)}, k.scalar_type());
  switch (k.scalar_type()) {
    case ScalarType::Double:
      double_center<double>(k, out);
      break;
    case ScalarType::Float:
      double_center<float>(k, out);
      break;
    default:
      STD_TORCH_CHECK(false, "double_center: K must be float32 or float64");
  }
  return out;
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) { m.impl("double_center", TORCH_BOX(&bido::double_center_cpu)); }
