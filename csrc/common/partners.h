// SPDX-License-Identifier: Apache-2.0
//
// Which factors the gradients of nhsic need.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

namespace bido {

// The variables whose factor the gradient of a wanted one needs, in order (ops/algebra.py: partners_of).
inline std::vector<int64_t> partners_of(const std::vector<int64_t>& first, const std::vector<int64_t>& second,
                                        const std::vector<int64_t>& wanted) {
  const std::set<int64_t> own(wanted.begin(), wanted.end());
  std::set<int64_t> partners;
  for (size_t p = 0; p < first.size(); ++p) {
    if (own.count(first[p])) partners.insert(second[p]);
    if (own.count(second[p])) partners.insert(first[p]);
  }
  return {partners.begin(), partners.end()};
}

}  // namespace bido
