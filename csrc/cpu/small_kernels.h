// SPDX-License-Identifier: Apache-2.0
//
// Weights of float64 entries K - 1 where K is small: beside 1, nothing is left of the digits of a K below
// 1e-16, and kernels with heavy tails have a gradient there. Those K are made again from the features.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "../common/kernel_tile.h"
#include "gram.h"
#include "scratch.h"
#include "variable.h"

namespace bido {

// What entries are: K - 1, K, or K - 1 where that is not positive and K elsewhere.
enum class EntryForm { minus_one, k, either };

// Smaller ones have lost more than float32 holds of a gradient.
constexpr double kSmallestHeldK = 1e-9;

inline bool is_lost_in_minus_one(const Variable<double>& v, const double* entries, int64_t n) {
  if (!v.is_features() || v.kind == KernelKind::linear || v.kind == KernelKind::energy) return false;
  return *std::min_element(entries, entries + n * n) < kSmallestHeldK - 1;
}

// From entries K - 1, [n, n].
inline Scratch<double> entries_of_either_form(const Variable<double>& v, const double* entries, int64_t n) {
  Scratch<double> kernel = make_scratch<double>(n * n);
  fill_stores<double>({v}, {TileStore<double>{kernel.get(), n, n}},
                      [](const Variable<double>&, const double*, int64_t) { return false; });
  // Near 1 K - 1 has the digits. A K of 0 stays one by its sign.
  for (int64_t k = 0; k < n * n; ++k)
    kernel[k] = entries[k] < -0.5 ? std::max(kernel[k], std::numeric_limits<double>::min()) : entries[k];
  return kernel;
}

}  // namespace bido
