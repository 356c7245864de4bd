// SPDX-License-Identifier: Apache-2.0
//
// What float32 does not resolve: bounds shared by the CPU kernels, which answer NaN and are asked again in
// float64 (cpu/resolution.h), and by the GPU kernels, where the NaN stays.
//
// With u the round-off, an entry e(D) of the Gram matrix is off by about u s (N_i + N_j), s = |de/dD|, N_i
// the squared norm of the centered row: much where two rows are far from the center and near each other.
#pragma once

#include "kernel_tile.h"

namespace bido {

// Products of smaller norms lose digits to the smallest float, larger ones overflow.
constexpr double kSmallestNorm = 1e-30, kLargestNorm = 1e30;

// Nearer pairs, in units of their norms, lose digits in |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>: in float64, which
// serves where that matters, and in float32 for kernels that are not smooth. Their distances are made again
// from differences.
template <typename T>
constexpr T kNear = sizeof(T) == 8 ? T(1e-6) : T(1e-2);

// Of float32: the weights of nearer pairs are too large beside the others, and the difference of the rows is
// lost in their gradient.
constexpr float kNearest = 1e-4f;

// Of the GPU's float32 and smooth kernels: the largest s (N_i + N_j).
constexpr float kLargestAmplification = 32;
// In units of N_i + N_j: smaller distances may be round-off and nothing else.
constexpr float kLostDistance = 1e-5f;
// Of a gradient by float32 entries K - 1: the smallest mean of K, per power of K in the weights.
constexpr double kSmallestMeanOfGradient = 0.002;
// Of half-precision features, whose products are not centered: the squared offset in units of the spread.
constexpr float kLargestOffset = 64;
// Of nhsic: the round-off of K against the smallest eigenvalue of K + eps n I that matters.
constexpr double kRidgeRoundoff = 1e-4;

// Whether an entry of features has lost digits that it needs; `both`: N_i + N_j, `shift`: of entry = K -
// shift.
template <typename T>
BIDO_HOST_DEVICE inline bool is_doubtful(KernelKind kind, T entry, T distance, T both, KernelParameters<T> p,
                                         T shift = T(1)) {
  if (kind == KernelKind::linear) return false;
  if (!is_smooth(kind)) return distance < kNear<T> * both;
  // The weight of a feature gradient is four times the slope. Of a distance below its round-off that at 0
  // counts.
  if (distance < T(kLostDistance) * both &&
      (distance == T(0) ||
       feature_weight(kind, T(1) - shift, T(0.25), p, shift) * both > T(kLargestAmplification)))
    return true;
  return feature_weight(kind, entry, T(0.25), p, shift) * both > T(kLargestAmplification);
}

// The power of K in the weights of a gradient: it multiplies the relative error of K.
BIDO_HOST_DEVICE inline double power_in_weight(KernelKind kind, double alpha) {
  if (kind == KernelKind::inverse_multiquadric) return 3;
  return kind == KernelKind::rational_quadratic ? 1 + 1 / alpha : 1;
}

// Whether float32 entries K - 1 hold the digits of K that a gradient needs, for a mean of K; `margin`: for
// what needs more of them.
BIDO_HOST_DEVICE inline bool holds_weights(KernelKind kind, double mean, double alpha, double margin = 1) {
  if (kind == KernelKind::linear || kind == KernelKind::energy || kind >= KernelKind::labels) return true;
  // NaN is no reason to say no: it shows itself.
  return !(mean < margin * kSmallestMeanOfGradient * power_in_weight(kind, alpha));
}

// Whether a scale of the squared distances leaves something of the largest, and neither overflows.
BIDO_HOST_DEVICE inline bool is_in_range(KernelKind kind, double gamma, double largest) {
  if (!(largest >= kSmallestNorm && largest <= kLargestNorm)) return false;
  if (kind == KernelKind::linear || kind == KernelKind::energy) return true;
  const double scale = kind == KernelKind::inverse_multiquadric ? 1
                       : kind == KernelKind::laplacian          ? gamma * gamma
                                                                : gamma;
  return scale >= kSmallestNorm && scale <= kLargestNorm && scale * largest >= kSmallestNorm;
}

}  // namespace bido
