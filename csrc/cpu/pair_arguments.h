// SPDX-License-Identifier: Apache-2.0
//
// What the kernels of pairs of variables ask of their arguments.
#pragma once

#include <set>
#include <vector>

#include "../common/kernel_tile.h"
#include "../common/stable.h"

namespace bido {

inline void check_pairs(const char* op, const std::vector<Tensor>& variables,
                        const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                        const std::vector<int64_t>& second) {
  STD_TORCH_CHECK(!variables.empty() && variables.size() == kinds.size() && first.size() == second.size(), op,
                  ": needs variables, one kind for each, and pairs");
  const auto m = static_cast<int64_t>(variables.size());
  for (size_t p = 0; p < first.size(); ++p)
    STD_TORCH_CHECK(first[p] >= 0 && first[p] < m && second[p] >= 0 && second[p] < m, op,
                    ": a pair names a variable that is not there");
}

inline void check_wanted(const char* op, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& wanted) {
  const auto m = static_cast<int64_t>(kinds.size());
  for (int64_t v : wanted)
    STD_TORCH_CHECK(v >= 0 && v < m && static_cast<KernelKind>(kinds[v]) != KernelKind::labels, op,
                    ": only features and Gram matrices that are there have a gradient");
  STD_TORCH_CHECK(std::set<int64_t>(wanted.begin(), wanted.end()).size() == wanted.size(), op,
                  ": a gradient is wanted twice");
}

}  // namespace bido
