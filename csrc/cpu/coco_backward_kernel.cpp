// SPDX-License-Identifier: Apache-2.0
//
// coco_backward on the CPU, Frobenius norm:
//   G = sym(Kc sum_p w_p Lc_p^2),  w_p = grad_p |M_p|_F^(-3/2) / (2 n),  M = Kc Lc,
// and grad_x of G as in gram_stack, from the squares of the partners that coco_kernel.cpp kept.
#include <algorithm>
#include <string>
#include <vector>

#include "centered_gram.h"
#include "mirror.h"
#include "pair_arguments.h"
#include "pair_factors.h"
#include "weights.h"

namespace bido {
namespace {

// d value_p / d K = w_p sym(Kc Lc^2); where the value is 0 its gradient is defined as 0. NaN stays.
std::vector<double> weights_of_pairs(const double* grads, const double* values, size_t pairs, int64_t n) {
  std::vector<double> weights(pairs);
  for (size_t p = 0; p < pairs; ++p) {
    const double root = values[p] * static_cast<double>(n);  // |M|_F^(1/2)
    weights[p] = values[p] > 0 ? grads[p] / (2 * static_cast<double>(n) * root * root * root) : 0 * values[p];
  }
  return weights;
}

struct Work {
  explicit Work(int64_t n) : centered(n, n), sum(n, n), product(n, n) {}
  RowBuffer<double> centered, sum, product;
};

// The gradient of one Gram matrix, up to its symmetric part if that is taken later: |Kc T + T Kc| >=
// |Kc T - T Kc| as Kc is positive semidefinite, so rounding first costs no digit. Both factors of the product
// are symmetric: it is one of their rows.
template <typename T>
void gradient_of_gram(const CenteredGram<T>& Kc, const std::vector<double>& coefficients,
                      const double* squares, int64_t n, bool symmetric, T* out, Work& work) {
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Kc.fill(i, 0, work.centered.row(i));
      sum_of_factors(coefficients, squares, n * n, i * n, work.sum.row(i), n);
    }
  });
  multiply_rows(work.centered, work.sum, work.product.row(0), work.product.stride(), false);
  if (symmetric) return symmetric_part(work.product.row(0), work.product.stride(), out, n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < n; ++j) out[i * n + j] = static_cast<T>(work.product.row(i)[j]);
  });
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad, const Tensor& values, const std::vector<Tensor>& variables,
                             const Tensor& parameters, const Tensor& stack, const Tensor& squares,
                             const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                             const std::vector<int64_t>& second, const std::vector<int64_t>& wanted) {
  const auto group = make_group<T>("coco_backward", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, count = static_cast<int64_t>(wanted.size());
  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  const auto weights = weights_of_pairs(static_cast<const double*>(grad.const_data_ptr()),
                                        static_cast<const double*>(values.const_data_ptr()), first.size(), n);
  const auto* square = static_cast<const double*>(squares.const_data_ptr());
  const auto* gram = static_cast<const T*>(stack.const_data_ptr());
  const auto make_gradient = [&](int64_t w, T* out, Work& work) {
    const bool given = group[wanted[w]].is_gram();
    const CenteredGram<T> Kc(gram + w * size, given, n);
    const auto coefficients = partner_coefficients(wanted[w], partners, first, second, weights.data());
    gradient_of_gram(Kc, coefficients, square, n, given, out, work);
  };
  std::vector<Tensor> grads;
  const auto finish = [&](int64_t w, const Tensor& G) {
    grads.push_back(gradient_of_variable<T>(group[wanted[w]], G, gram + w * size));
  };
  const auto matrix = [&] { return empty_like_with(stack, {n, n}, scalar_type_of<T>()); };
  if (n <= kFewSamples) {
    std::vector<Tensor> gradients;
    for (int64_t w = 0; w < count; ++w) gradients.push_back(matrix());
    torch::stable::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
      Work work(n);
      for (int64_t w = from; w < to; ++w)
        make_gradient(w, static_cast<T*>(gradients[w].mutable_data_ptr()), work);
    });
    for (int64_t w = 0; w < count; ++w) finish(w, gradients[w]);
    return grads;
  }
  Work work(n);
  for (int64_t w = 0; w < count; ++w) {
    const Tensor G = matrix();
    make_gradient(w, static_cast<T*>(G.mutable_data_ptr()), work);
    finish(w, G);
  }
  return grads;
}

}  // namespace

std::vector<Tensor> coco_backward_cpu(Tensor grad, Tensor values, std::vector<Tensor> variables,
                                      Tensor parameters, Tensor stack, Tensor kept,
                                      std::vector<int64_t> kinds, std::vector<int64_t> first,
                                      std::vector<int64_t> second, std::string norm,
                                      std::vector<int64_t> wanted) {
  check_pairs("coco_backward", variables, kinds, first, second);
  check_wanted("coco_backward", kinds, wanted);
  const ScalarType dtype = group_dtype(variables, kinds);
  const int64_t size = variables[0].size(0) * variables[0].size(0),
                pairs = static_cast<int64_t>(first.size());
  const auto partners = static_cast<int64_t>(partners_of(first, second, wanted).size());
  STD_TORCH_CHECK(norm == "fro", "coco_backward: the kernel has the Frobenius norm");
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && values.scalar_type() == ScalarType::Double &&
                      stack.scalar_type() == dtype && kept.scalar_type() == ScalarType::Double &&
                      grad.numel() == pairs && values.numel() == pairs &&
                      stack.numel() == static_cast<int64_t>(wanted.size()) * size &&
                      kept.numel() == partners * size,
                  "coco_backward: what is given must be what the forward kept");
  const auto run = dtype == ScalarType::Double ? &backward<double> : &backward<float>;
  return run(torch::stable::contiguous(grad), torch::stable::contiguous(values), variables, parameters,
             torch::stable::contiguous(stack), torch::stable::contiguous(kept), kinds, first, second, wanted);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("coco_backward", TORCH_BOX(&bido::coco_backward_cpu)); }
