// SPDX-License-Identifier: Apache-2.0
//
// nhsic_backward on the CPU:  G = c P (sum_b grad_b S_b) P,   grad_x = (A - diag(A 1)) x as in gram_stack,
// from the inverses P and the partners' factors S that nhsic_kernel.cpp kept. NaN where round-off would be
// seen in G: ops/nhsic.py then asks the composition.
#include <algorithm>
#include <limits>
#include <vector>

#include "blind_noise.h"
#include "mirror.h"
#include "pair_arguments.h"
#include "pair_factors.h"
#include "weights.h"

namespace bido {
namespace {

constexpr int64_t kGradientRows = 16;  // of G in a task

// out += left[0..n) b, rows of [n, n].
BIDO_VECTORIZE void add_product(const double* left, const double* b, double* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k)
    for (int64_t j = 0; j < n; ++j) out[j] += left[k] * b[k * n + j];
}

// A symmetric matrix centered, in the dtype of the Gram matrix.
template <typename T>
void finish_gradient(const double* G, int64_t stride, T* out, int64_t n) {
  std::vector<double> means(n);
  torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) means[i] = row_sum(G + i * stride, n) / static_cast<double>(n);
  });
  double mean = 0;
  for (double m : means) mean += m / static_cast<double>(n);
  torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < n; ++j)
        out[i * n + j] = static_cast<T>(G[i * stride + j] - means[i] - (means[j] - mean));
  });
}

// One variable after the other, with all threads.
template <typename T>
std::vector<Tensor> backward_of_many(const std::vector<Variable<T>>& group,
                                     const std::vector<int64_t>& partners, const std::vector<int64_t>& first,
                                     const std::vector<int64_t>& second, const double* grads, const double* P,
                                     const double* S, const T* gram, const Tensor& stack, double c,
                                     const std::vector<int64_t>& wanted) {
  const int64_t n = group[0].data.size(0), size = n * n;
  RowBuffer<double> inverse(n, n), sum(n, n), product(n, n);
  std::vector<Tensor> result;
  for (size_t w = 0; w < wanted.size(); ++w) {
    std::vector<double> coefficients = partner_coefficients(wanted[w], partners, first, second, grads);
    for (double& coefficient : coefficients) coefficient *= c;
    torch::stable::parallel_for(0, n, 32, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        std::copy(P + w * size + i * n, P + w * size + (i + 1) * n, inverse.row(i));
        sum_of_factors(coefficients, S, size, i * n, sum.row(i), n);
      }
    });
    multiply_rows(inverse, sum, product.row(0), product.stride(), false);  // all three are symmetric
    double* G = sum.row(0);
    multiply_rows(product, inverse, G, sum.stride(), true);
    mirror_upper(G, n, sum.stride());
    if (is_blind_noise(P + w * size, gram + w * size, group[wanted[w]].is_gram(), c, n))
      G[0] = std::numeric_limits<double>::quiet_NaN();
    const Tensor entries = empty_like_with(stack, {n, n}, scalar_type_of<T>());
    finish_gradient<T>(G, sum.stride(), static_cast<T*>(entries.mutable_data_ptr()), n);
    result.push_back(gradient_of_variable<T>(group[wanted[w]], entries, gram + w * size));
  }
  return result;
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad, const std::vector<Tensor>& variables,
                             const Tensor& parameters, const Tensor& stack, const Tensor& inverses,
                             const Tensor& factors, const std::vector<int64_t>& kinds,
                             const std::vector<int64_t>& first, const std::vector<int64_t>& second,
                             double eps, const std::vector<int64_t>& wanted) {
  const auto group = make_group<T>("nhsic_backward", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, count = static_cast<int64_t>(wanted.size());
  const double c = eps * static_cast<double>(n);
  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  const auto* g = static_cast<const double*>(grad.const_data_ptr());
  const auto* P = static_cast<const double*>(inverses.const_data_ptr());
  const auto* S = static_cast<const double*>(factors.const_data_ptr());
  const auto* gram = static_cast<const T*>(stack.const_data_ptr());

  if (n > kFewSamples)
    return backward_of_many<T>(group, partners, first, second, g, P, S, gram, stack, c, wanted);
  const Scratch<double> sums = make_scratch<double>(count * size),
                        products = make_scratch<double>(count * size);
  torch::stable::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t w = from; w < to; ++w) {
      const auto coefficients = partner_coefficients(wanted[w], partners, first, second, g);
      sum_of_factors(coefficients, S, size, 0, sums.get() + w * size, size);
    }
  });
  const int64_t blocks = (n + kGradientRows - 1) / kGradientRows;
  torch::stable::parallel_for(0, count * blocks, 1, [&](int64_t from, int64_t to) {
    std::vector<double> left(n);
    for (int64_t t = from; t < to; ++t) {
      const int64_t w = t / blocks, begin = t % blocks * kGradientRows;
      for (int64_t i = begin; i < std::min(n, begin + kGradientRows); ++i) {
        double* out = products.get() + w * size + i * n;
        std::fill(left.begin(), left.end(), 0.0);
        std::fill(out, out + n, 0.0);
        add_product(P + w * size + i * n, sums.get() + w * size, left.data(), n);
        add_product(left.data(), P + w * size, out, n);
        for (int64_t j = 0; j < n; ++j) out[j] *= c;
      }
    }
  });
  std::vector<Tensor> grads;
  for (int64_t w = 0; w < count; ++w) {
    const Tensor G = empty_like_with(stack, {n, n}, scalar_type_of<T>());
    double* product = products.get() + w * size;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < i; ++j)
        product[i * n + j] = product[j * n + i] = (product[i * n + j] + product[j * n + i]) / 2;
    if (is_blind_noise(P + w * size, gram + w * size, group[wanted[w]].is_gram(), c, n))
      product[0] = std::numeric_limits<double>::quiet_NaN();
    finish_gradient<T>(product, n, static_cast<T*>(G.mutable_data_ptr()), n);
    grads.push_back(gradient_of_variable<T>(group[wanted[w]], G, gram + w * size));
  }
  return grads;
}

}  // namespace

std::vector<Tensor> nhsic_backward_cpu(Tensor grad, std::vector<Tensor> variables, Tensor parameters,
                                       Tensor stack, Tensor inverses, Tensor factors,
                                       std::vector<int64_t> kinds, std::vector<int64_t> first,
                                       std::vector<int64_t> second, double eps, std::vector<int64_t> wanted) {
  check_pairs("nhsic_backward", variables, kinds, first, second);
  check_wanted("nhsic_backward", kinds, wanted);
  const ScalarType dtype = group_dtype(variables, kinds);
  const int64_t size = variables[0].size(0) * variables[0].size(0),
                count = static_cast<int64_t>(wanted.size()),
                partners = static_cast<int64_t>(partners_of(first, second, wanted).size());
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && stack.scalar_type() == dtype &&
                      inverses.scalar_type() == ScalarType::Double &&
                      factors.scalar_type() == ScalarType::Double &&
                      grad.numel() == static_cast<int64_t>(first.size()) && stack.numel() == count * size &&
                      inverses.numel() == count * size && factors.numel() == partners * size,
                  "nhsic_backward: what is given must be what the forward kept");
  const auto run = dtype == ScalarType::Double ? &backward<double> : &backward<float>;
  return run(torch::stable::contiguous(grad), variables, parameters, torch::stable::contiguous(stack),
             torch::stable::contiguous(inverses), torch::stable::contiguous(factors), kinds, first, second,
             eps, wanted);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) {
  m.impl("nhsic_backward", TORCH_BOX(&bido::nhsic_backward_cpu));
}
