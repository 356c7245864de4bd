// SPDX-License-Identifier: Apache-2.0
//
// gaussian_gram on CUDA:  K_ij = exp(-gamma |x_i - x_j|^2), or E = K - 1 by expm1, and its backward
//   grad_x = (A - diag(A 1)) x,  A = 4 gamma sym(grad) o K.
// Centers of the columns, then products of the centered rows by tiles on or above the diagonal
// (gram_products.cu).
#include "gram_weights.h"
#include "group.h"
#include "library.h"

namespace bido {

namespace {

constexpr int64_t kGaussian = static_cast<int64_t>(KernelKind::gaussian);

FeatureList only_variable(const char* op, const Tensor& x, const Tensor& gamma, bool tf32) {
  STD_TORCH_CHECK(x.dim() == 2, op, ": x must be (n, d)");
  return features_of(op, {x}, gamma, {kGaussian}, tf32);
}

}  // namespace

Tensor gaussian_gram_cuda(Tensor x, Tensor gamma, bool minus_one, bool tf32) {
  const OnDevice guard(x);
  const FeatureList list = only_variable("gaussian_gram", x, gamma, tf32);
  const int64_t n = list.n;
  Tensor out = empty_like_with(x, {n, n}, ScalarType::Float);
  fill_grams("gaussian_gram", list, gamma, out, minus_one);
  return out;
}

Tensor gaussian_gram_backward_cuda(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one,
                                   bool tf32) {
  const OnDevice guard(x);
  const char* const op = "gaussian_gram_backward";
  const FeatureList list = only_variable(op, x, gamma, tf32);
  const int64_t n = list.n;
  check_same_device(op, x, {grad, gram});
  for (const Tensor& matrix : {grad, gram})
    STD_TORCH_CHECK(matrix.dim() == 2 && matrix.size(0) == n && matrix.size(1) == n, op,
                    ": the gradient and the Gram matrix must be (n, n)");
  const Tensor weights = gram_weights(op, torch::stable::view(torch::stable::contiguous(grad), {1, n, n}),
                                      torch::stable::view(torch::stable::contiguous(gram), {1, n, n}), gamma,
                                      {kGaussian}, !minus_one);
  Tensor out = empty_like_with(x, {n, x.size(1)}, x.scalar_type());
  weighted_products(op, weights, list, {out}, 0);
  return out;
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) {
  m.impl("gaussian_gram", TORCH_BOX(&bido::gaussian_gram_cuda));
  m.impl("gaussian_gram_backward", TORCH_BOX(&bido::gaussian_gram_backward_cuda));
}
