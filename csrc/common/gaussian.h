// SPDX-License-Identifier: Apache-2.0
//
// Arithmetic of the Gaussian kernel shared by host and device:
//   E_ij = K_ij - 1 = expm1(-gamma * D_ij),  D_ij = |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tile_order.h"

namespace bido {

// Round-off may push a distance below zero; NaN must pass through, so that bad features are seen.
template <typename T>
BIDO_HOST_DEVICE inline T squared_distance(T squared_norm_i, T squared_norm_j, T inner_product) {
  const T d = squared_norm_i + squared_norm_j - T(2) * inner_product;
  return d < T(0) ? T(0) : d;
}

// Branch-free expm1 for t <= 0, so that the compiler vectorises the loop around it (libm's is a call
// per element). t = k ln2 + r, |r| <= ln2 / 2; expm1(t) = 2^k expm1(r) + (2^k - 1).
// For k = 0 the result is r + r^2 q(r): relative accuracy holds down to the smallest distances.
// Below t = -80 both functions stay at their value there (exp(-80) = 2e-35).
struct Expm1Parts {
  float scale;  // 2^k
  float small;  // expm1(r)
};

BIDO_HOST_DEVICE inline Expm1Parts expm1_parts(float t) {
  const float clamped = t < -80.0f ? -80.0f : t;  // keeps 2^k normal; NaN passes (comparison false)
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float k = shifted - 12582912.0f;
  const float r = (clamped - k * 0.693145752f) - k * 1.42860677e-6f;
  float q = 1.98412698e-4f;  // 1/7!
  q = q * r + 1.38888889e-3f;
  q = q * r + 8.33333333e-3f;
  q = q * r + 4.16666667e-2f;
  q = q * r + 1.66666667e-1f;
  q = q * r + 0.5f;
  const float small = r + r * r * q;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const int32_t exponent = (bits - 0x4B400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return {scale, small};
}

BIDO_HOST_DEVICE inline float expm1_nonpositive(float t) {
  const Expm1Parts p = expm1_parts(t);
  return p.scale * p.small + (p.scale - 1.0f);
}

// K itself: expm1 + 1 would round small kernel values to multiples of the unit round-off.
BIDO_HOST_DEVICE inline float exp_nonpositive(float t) {
  const Expm1Parts p = expm1_parts(t);
  return p.scale * p.small + p.scale;
}

BIDO_HOST_DEVICE inline double expm1_nonpositive(double t) { return std::expm1(t); }
BIDO_HOST_DEVICE inline double exp_nonpositive(double t) { return std::exp(t); }

// NaN or Inf features must not hide behind the zero of the diagonal: finite - finite = 0, else NaN.
template <typename T>
BIDO_HOST_DEVICE inline T diagonal_minus_one(T squared_norm) {
  return squared_norm - squared_norm;
}

}  // namespace bido
