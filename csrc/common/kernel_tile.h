// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the measures on one entry: from an inner product of centered rows to the Gram entry up to
// centering, and from its gradient to the weight of the feature gradient
//   grad_x = (A - diag(A 1)) x  (gaussian, inverse multiquadric),   grad_x = A x  (linear).
#pragma once

#include "gaussian.h"

namespace bido {

// `gram`: the variable is a Gram matrix up to centering already.
enum class KernelKind : int64_t {
  gaussian = 0,
  linear = 1,
  inverse_multiquadric = 2,
  laplacian = 3,
  energy = 4,
  rational_quadratic = 5,
  labels = 6,
  gram = 7
};

// gamma of the kernel (beta of the energy kernel), and alpha of the rational quadratic one.
template <typename T>
struct KernelParameters {
  T gamma, alpha = T(1);
};

// Not smooth at distance 0, where round-off of near distances weighs most.
BIDO_HOST_DEVICE inline bool is_smooth(KernelKind kind) {
  return kind != KernelKind::laplacian && kind != KernelKind::energy;
}

// (1 + D)^(-1/2) - 1 without cancellation.
template <typename T>
BIDO_HOST_DEVICE inline T inverse_multiquadric_entry(T distance) {
  const T root = std::sqrt(T(1) + distance);
  return -distance / (root * (T(1) + root));
}

// K - 1 from a squared distance, -D^(beta/2) of the energy kernel.
template <typename T>
BIDO_HOST_DEVICE inline T entry_of_distance(KernelKind kind, T distance, KernelParameters<T> p) {
  switch (kind) {
    case KernelKind::gaussian:
      return expm1_nonpositive(-p.gamma * distance);
    case KernelKind::laplacian:
      return expm1_nonpositive(-p.gamma * std::sqrt(distance));
    case KernelKind::energy:
      return p.gamma == T(1) ? -std::sqrt(distance) : -std::pow(distance, p.gamma / 2);
    case KernelKind::rational_quadratic:
      return std::expm1(-p.alpha * std::log1p(p.gamma * distance));
    default:
      break;
  }
  return inverse_multiquadric_entry(distance);
}

// Gram entry up to centering: K - 1, or for the linear kernel the product itself.
template <typename T>
BIDO_HOST_DEVICE inline T gram_entry(KernelKind kind, T norm_i, T norm_j, T inner, KernelParameters<T> p) {
  if (kind == KernelKind::linear) return inner;
  return entry_of_distance(kind, squared_distance(norm_i, norm_j, inner), p);
}

// K itself from a squared distance: where it is small, its digits are not those of K - 1.
template <typename T>
BIDO_HOST_DEVICE inline T kernel_of_distance(KernelKind kind, T distance, KernelParameters<T> p) {
  switch (kind) {
    case KernelKind::gaussian:
      return exp_nonpositive(-p.gamma * distance);
    case KernelKind::laplacian:
      return exp_nonpositive(-p.gamma * std::sqrt(distance));
    case KernelKind::rational_quadratic:
      return std::exp(-p.alpha * std::log1p(p.gamma * distance));
    default:
      return T(1) / std::sqrt(T(1) + distance);
  }
}

// A_ij from the gradient g_ij of the Gram entry e_ij, K - shift.
template <typename T>
BIDO_HOST_DEVICE inline T feature_weight(KernelKind kind, T entry, T grad, KernelParameters<T> p,
                                         T shift = T(1)) {
  const T k = entry + shift;
  switch (kind) {
    case KernelKind::linear:
      return T(2) * grad;
    case KernelKind::gaussian:
      return T(4) * p.gamma * grad * k;
    case KernelKind::laplacian: {  // A = 2 gamma g K / s at distance s > 0
      const T exponent = shift == T(0) ? std::log(entry) : std::log1p(entry);
      return exponent < T(0) ? T(-2) * p.gamma * p.gamma * grad * k / exponent : T(0);
    }
    case KernelKind::energy:
      if (!(entry < T(0))) return entry - entry;  // NaN stays
      return p.gamma == T(1) ? T(2) * grad / -entry
                             : T(2) * p.gamma * grad * std::pow(-entry, T(1) - T(2) / p.gamma);
    case KernelKind::rational_quadratic:
      return T(4) * p.alpha * p.gamma * grad * std::pow(k, T(1) + T(1) / p.alpha);
    default:
      return T(2) * grad * k * k * k;
  }
}

}  // namespace bido
