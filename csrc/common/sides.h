// SPDX-License-Identifier: Apache-2.0
//
// The sides of pairs whose gradient coco keeps from its forward (ops/coco_frobenius.py: sides_of).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernel_tile.h"

namespace bido {

struct Side {
  int64_t own, partner;
};

inline bool is_labels(const std::vector<int64_t>& kinds, int64_t variable) {
  return static_cast<KernelKind>(kinds[variable]) == KernelKind::labels;
}

// Every wanted variable with each of its partners that are not labels, in the order of `wanted`, then of the
// pairs.
inline std::vector<Side> sides_of(const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                                  const std::vector<int64_t>& second, const std::vector<int64_t>& wanted) {
  std::vector<Side> sides;
  const auto add = [&](int64_t own, int64_t a, int64_t b) {
    const bool known = std::any_of(sides.begin(), sides.end(),
                                   [&](const Side& side) { return side.own == own && side.partner == b; });
    if (a == own && !is_labels(kinds, b) && !known) sides.push_back({own, b});
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
