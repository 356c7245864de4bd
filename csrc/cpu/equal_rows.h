// SPDX-License-Identifier: Apache-2.0
//
// Equal samples of a float64 Gram matrix K - 1, in what is made of it for nhsic. Swapping two of them changes
// neither the inverse nor the factor; round-off does, by u / c in the direction in which they differ, where
// the inverse is 1 / c. If the partner has the same equal samples, all of that is wrong: in exact arithmetic
// it has nothing there, to the last bit: 1 / c comes from both sides.
#pragma once

#include <cstdint>
#include <vector>

namespace bido {

// For each row the group of those equal to it, and the number of groups: n where there are none.
struct EqualRows {
  std::vector<int64_t> group, sizes;

  template <typename T>
  EqualRows(const T* gram, int64_t n) : group(n, -1) {
    for (int64_t i = 0; i < n; ++i) {
      if (group[i] >= 0) continue;
      group[i] = static_cast<int64_t>(sizes.size());
      sizes.push_back(1);
      for (int64_t j = i + 1; j < n; ++j) {
        if (gram[i * n + j] != T(0) || group[j] >= 0) continue;
        group[j] = group[i];
        ++sizes.back();
      }
    }
  }
  bool any() const { return sizes.size() < group.size(); }

  // The inverse [n, n] averaged over all orders of equal rows.
  void average_inverse(double* matrix) const { average(matrix, false); }
  // The factor, whose diagonal is like the rest of its block: it maps the difference of equal samples to 0.
  void average_factor(double* matrix) const { average(matrix, true); }

 private:
  void average(double* matrix, bool whole_blocks) const {
    const auto n = static_cast<int64_t>(group.size()), m = static_cast<int64_t>(sizes.size());
    std::vector<double> sums(m * m, 0.0), traces(m, 0.0);
    for (int64_t i = 0; i < n; ++i) {
      traces[group[i]] += matrix[i * n + i];
      for (int64_t j = 0; j < n; ++j)
        if (i != j || whole_blocks) sums[group[i] * m + group[j]] += matrix[i * n + j];
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t a = group[i], b = group[j];
        const int64_t count = sizes[a] * (a == b && !whole_blocks ? sizes[a] - 1 : sizes[b]);
        matrix[i * n + j] = i == j && !whole_blocks ? traces[a] / static_cast<double>(sizes[a])
                                                    : sums[a * m + b] / static_cast<double>(count);
      }
    }
  }
};

}  // namespace bido
