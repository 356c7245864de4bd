// SPDX-License-Identifier: Apache-2.0
//
// gaussian_gram:  K_ij = exp(-gamma |x_i - x_j|^2), or E = K - 1 by expm1.
//
// Forward: inner products of centered rows on or above the diagonal (inner_products.h), then entries in
// place (gram.h). Backward: W = sym(grad) o K;  grad_x = -4 gamma (diag(W 1) - W) x, by row panels
// (weights.h): no n x n matrix is allocated.
#include "gram.h"
#include "huge_pages.h"
#include "resolution.h"
#include "weights.h"

namespace bido {
namespace {

double read_number(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? *static_cast<const double*>(t.const_data_ptr())
                                               : *static_cast<const float*>(t.const_data_ptr());
}

template <typename T>
Variable<T> gaussian_variable(const Tensor& x, const Tensor& gamma) {
  const double number = read_number(gamma);
  return {with_dense_columns(x), KernelKind::gaussian, static_cast<T>(number), number};
}

template <typename T>
void gram_into(const Tensor& x, const Tensor& gamma, bool minus_one, const Tensor& out) {
  const int64_t n = x.size(0);
  const std::vector<Variable<T>> features{gaussian_variable<T>(x, gamma)};
  const std::vector<TileStore<T>> stores{{static_cast<T*>(out.mutable_data_ptr()), n, n}};
  const auto choose = [&](const Variable<T>&, const T*, int64_t) { return minus_one; };
  mark_unresolved<T>(features, stores, fill_stores<T>(features, stores, choose), minus_one);
}

}  // namespace

Tensor gaussian_gram_cpu(Tensor x, Tensor gamma, bool minus_one) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1 && x.size(1) >= 1,
                  "gaussian_gram: x must be (n, d) with n, d >= 1");
  STD_TORCH_CHECK(gamma.numel() == 1 && gamma.is_cpu(), "gaussian_gram: gamma must be one number on the CPU");
  Tensor gram = empty_large(x, {x.size(0), x.size(0)}, accumulation_dtype(x.scalar_type()));
  if (gram.scalar_type() == ScalarType::Double) {
    gram_into<double>(x, gamma, minus_one, gram);
  } else {
    gram_into<float>(x, gamma, minus_one, gram);
  }
  return gram;
}

Tensor gaussian_gram_backward_cpu(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one) {
  const int64_t n = x.size(0);
  const ScalarType dtype = accumulation_dtype(x.scalar_type());
  STD_TORCH_CHECK(grad.size(0) == n && grad.size(1) == n && gram.size(0) == n && gram.size(1) == n,
                  "gaussian_gram_backward: grad and gram must be (n, n)");
  STD_TORCH_CHECK(grad.scalar_type() == dtype && gram.scalar_type() == dtype,
                  "gaussian_gram_backward: grad and gram must have the accumulation dtype of x");
  grad = torch::stable::contiguous(grad);
  gram = torch::stable::contiguous(gram);
  if (dtype == ScalarType::Double)
    return gradient_of_features<double>(gaussian_variable<double>(x, gamma), !minus_one,
                                        static_cast<const double*>(grad.const_data_ptr()),
                                        static_cast<const double*>(gram.const_data_ptr()));
  return gradient_of_features<float>(gaussian_variable<float>(x, gamma), !minus_one,
                                     static_cast<const float*>(grad.const_data_ptr()),
                                     static_cast<const float*>(gram.const_data_ptr()));
}

}  // namespace bido

// bido_ext/serving/on_cpu.py calls these: what float32 does not resolve is asked for again in float64.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def("gaussian_gram(Tensor x, Tensor gamma, bool minus_one) -> Tensor");
  m.def("gaussian_gram_backward(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) {
  m.impl("gaussian_gram", TORCH_BOX(&bido::gaussian_gram_cpu));
  m.impl("gaussian_gram_backward", TORCH_BOX(&bido::gaussian_gram_backward_cpu));
}
