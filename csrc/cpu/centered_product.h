// SPDX-License-Identifier: Apache-2.0
//
// Biased HSIC from what one pass over two Gram matrices leaves: sum K o L and the row sums k, l.
#pragma once

#include <cstdint>

namespace bido {

inline double centered_product(double product, const double* k, const double* l, int64_t n) {
  double cross = 0, total_k = 0, total_l = 0;
  for (int64_t i = 0; i < n; ++i) {
    cross += k[i] * l[i];
    total_k += k[i];
    total_l += l[i];
  }
  const auto m = static_cast<double>(n);
  return (product - 2.0 * cross / m + total_k * total_l / (m * m)) / ((m - 1) * (m - 1));
}

}  // namespace bido
