// SPDX-License-Identifier: Apache-2.0
//
// The sides of pairs: a variable that wants a gradient, and its partner.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/kernel_tile.h"

namespace bido {

struct Side {
  int64_t own, partner;
};

// What a side has of the gradients of the pairs; a pair of a variable with itself counts twice.
inline double gradient_of_side(const Side& side, const std::vector<int64_t>& first,
                               const std::vector<int64_t>& second, const double* grads) {
  double sum = 0;
  for (size_t p = 0; p < first.size(); ++p)
    sum += ((first[p] == side.own && second[p] == side.partner) +
            (second[p] == side.own && first[p] == side.partner)) *
           grads[p];
  return sum;
}

// Every wanted variable with each of its partners that are not labels, in the order of `wanted`, then of the
// pairs: those whose gradient coco keeps from its forward (ops/coco_frobenius.py: sides_of).
inline std::vector<Side> sides_of(const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                                  const std::vector<int64_t>& second, const std::vector<int64_t>& wanted) {
  std::vector<Side> sides;
  const auto add = [&](int64_t own, int64_t a, int64_t b) {
    const bool labels = static_cast<KernelKind>(kinds[b]) == KernelKind::labels;
    const bool known = std::any_of(sides.begin(), sides.end(),
                                   [&](const Side& side) { return side.own == own && side.partner == b; });
    if (a == own && !labels && !known) sides.push_back({own, b});
  };
  for (int64_t own : wanted) {
    for (size_t p = 0; p < first.size(); ++p) {
      add(own, first[p], second[p]);
      add(own, second[p], first[p]);
    }
  }
  return sides;
}

}  // namespace bido
