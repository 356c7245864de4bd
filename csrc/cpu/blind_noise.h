// SPDX-License-Identifier: Apache-2.0
//
// Whether round-off would be seen in the gradient of nhsic by a Gram matrix, G = c P T P,
// P = (Kc + c I)^-1, T the sum of the partners' factors: where K is blind P is 1 / c, and the rest of G may
// be of size c. ops/nhsic_gradient.py says more, and has what is done then.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "centered_gram.h"
#include "gram_roundoff.h"

namespace bido {

constexpr double kLargestBlindNoise = 1e-7;

// The round-off u c |P|^2 |T| / n against c |T| / (|Kc| + c)^2.
template <typename T>
bool is_blind_noise(const double* P, const T* gram, bool given, double c, int64_t n) {
  // Along ones P is 1 / c, and centering takes what comes of it.
  const double beside = std::max(0.0, squared_norm_of(P, n) - 1 / (c * c));
  const double size = std::sqrt(CenteredGram<T>(gram, given, n).squared_norm(squared_norm_of(gram, n))) + c;
  const double u = std::numeric_limits<double>::epsilon();
  return u / static_cast<double>(n) * beside * size * size > kLargestBlindNoise;
}

}  // namespace bido
