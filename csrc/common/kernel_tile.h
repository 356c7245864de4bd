// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the measures on one entry: from an inner product of centered rows to the Gram entry up to
// centering, and from its gradient to the weight of the feature gradient
//   grad_x = (A - diag(A 1)) x  (gaussian, inverse multiquadric),   grad_x = A x  (linear).
#pragma once

#include "gaussian.h"

namespace bido {

// `gram`: the variable is a Gram matrix up to centering already.
enum class KernelKind : int64_t { gaussian = 0, linear = 1, inverse_multiquadric = 2, labels = 3, gram = 4 };

// K - 1 from a squared distance.
template <typename T>
BIDO_HOST_DEVICE inline T entry_of_distance(KernelKind kind, T distance, T gamma) {
  if (kind == KernelKind::gaussian) return expm1_nonpositive(-gamma * distance);
  // (1 + D)^(-1/2) - 1 without cancellation.
  const T root = std::sqrt(T(1) + distance);
  return -distance / (root * (T(1) + root));
}

// Gram entry up to centering: K - 1, or for the linear kernel the product itself.
template <typename T>
BIDO_HOST_DEVICE inline T gram_entry(KernelKind kind, T norm_i, T norm_j, T inner, T gamma) {
  if (kind == KernelKind::linear) return inner;
  return entry_of_distance(kind, squared_distance(norm_i, norm_j, inner), gamma);
}

// A_ij from the gradient g_ij of the Gram entry e_ij, K - shift.
template <typename T>
BIDO_HOST_DEVICE inline T feature_weight(KernelKind kind, T entry, T grad, T gamma, T shift = T(1)) {
  if (kind == KernelKind::linear) return T(2) * grad;
  const T k = entry + shift;
  return kind == KernelKind::gaussian ? T(4) * gamma * grad * k : T(2) * grad * k * k * k;
}

}  // namespace bido
