// SPDX-License-Identifier: Apache-2.0
//
// Of the entries of a Gram matrix up to centering: their squared norm, and the spectral norm of their
// round-off.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "row_products.h"

namespace bido {

template <typename T>
double squared_norm_of(const T* gram, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += row_product(gram + i * n, gram + i * n, n);
  return squares;
}

template <typename T>
double roundoff_of(const T* gram, int64_t n) {
  const double u = static_cast<double>(std::numeric_limits<T>::epsilon());
  return u * std::sqrt(squared_norm_of(gram, n) / static_cast<double>(n));
}

}  // namespace bido
