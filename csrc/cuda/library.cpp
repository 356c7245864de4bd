// SPDX-License-Identifier: Apache-2.0
//
// The functions of bido_cuda: those of the contracts in bido_ext/ops, and whether float32 products may be
// rounded to TF32, which the stable ABI does not tell.
#include "library.h"

BIDO_CUDA_LIBRARY(m) {
  m.def("gaussian_gram(Tensor x, Tensor gamma, bool minus_one, bool tf32) -> Tensor");
  m.def(
      "gaussian_gram_backward(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one, bool tf32)"
      " -> Tensor");
  m.def("gram_stack(Tensor[] variables, Tensor parameters, int[] kinds, bool tf32) -> Tensor");
  m.def(
      "gram_stack_backward(Tensor grad, Tensor stack, Tensor[] variables, Tensor parameters, int[] kinds,"
      " bool tf32) -> Tensor[]");
  m.def("double_center(Tensor K) -> Tensor");
  m.def(
      "hsic(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, bool unbiased,"
      " int tile, int kept_tiles, bool tf32) -> (Tensor, Tensor, Tensor)");
  m.def(
      "hsic_backward(Tensor grad, Tensor[] variables, Tensor parameters, Tensor sums, Tensor tiles,"
      " int[] kinds, int[] first, int[] second, bool unbiased, int tile, int[] wanted, bool tf32) -> "
      "Tensor[]");
  m.def(
      "nhsic(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, float eps,"
      " bool wide, int[] wanted, bool tf32) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "nhsic_backward(Tensor grad, Tensor[] variables, Tensor parameters, Tensor stack, Tensor inverses,"
      " Tensor factors, int[] kinds, int[] first, int[] second, float eps, int[] wanted, bool tf32)"
      " -> Tensor[]");
}
