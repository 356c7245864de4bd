// SPDX-License-Identifier: Apache-2.0
//
// What HSIC needs of Gram matrices, in one pass over them: row sums of each and, per pair, sum K o L.
//   biased:    (sum K o L - (2/n) k'l + (1'k)(1'l)/n^2) / (n-1)^2
//   unbiased:  Song et al. (2012), eq. 5, on the off-diagonal parts.
// The one-pass formulas are usable only because Gram matrices come up to centering, as K - 1
// (docs/mathematics.md). Sums are in float64 and in a fixed order.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "vectorize.h"

namespace bido {

struct Pairs {
  std::vector<int64_t> first, second;
  size_t count() const { return first.size(); }
};

template <typename T>
BIDO_VECTORIZE double row_sum(const T* row, int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(row[j + l]);
  for (; j < n; ++j) sum += static_cast<double>(row[j]);
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
BIDO_VECTORIZE double row_product(const T* a, const T* b, int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l)
      lanes[l] += static_cast<double>(a[j + l]) * static_cast<double>(b[j + l]);
  for (; j < n; ++j) sum += static_cast<double>(a[j]) * static_cast<double>(b[j]);
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
BIDO_VECTORIZE void add_scaled(double factor, const T* row, double* out, int64_t n) {
  for (int64_t j = 0; j < n; ++j) out[j] += factor * static_cast<double>(row[j]);
}

template <typename T>
BIDO_VECTORIZE void add_row_to_sums(const T* row, double* sums, int64_t n) {
  for (int64_t j = 0; j < n; ++j) sums[j] += static_cast<double>(row[j]);
}

// The sum of a row, which is added to the column sums as well.
template <typename T>
BIDO_VECTORIZE double row_and_column_sums(const T* row, double* columns, int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double v = static_cast<double>(row[j + l]);
      lanes[l] += v;
      columns[j + l] += v;
    }
  }
  for (; j < n; ++j) {
    sum += static_cast<double>(row[j]);
    columns[j] += static_cast<double>(row[j]);
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

constexpr double kRoundoff = 1e-15;

// Factors of the three terms of an estimator.
struct Estimator {
  double pair, total, scale;  // (product - pair * cross + total * totals) * scale

  Estimator(int64_t n, bool unbiased) {
    const auto m = static_cast<double>(n);
    pair = unbiased ? 2 / (m - 2) : 2 / m;
    total = unbiased ? 1 / ((m - 1) * (m - 2)) : 1 / (m * m);
    scale = unbiased ? 1 / (m * (m - 3)) : 1 / ((m - 1) * (m - 1));
  }

  double value(double product, const double* k, const double* l, int64_t n) const {
    double cross = 0, total_k = 0, total_l = 0;
    for (int64_t i = 0; i < n; ++i) {
      cross += k[i] * l[i];
      total_k += k[i];
      total_l += l[i];
    }
    // Of a constant variable nothing is left but round-off, which no ratio of values may take for a number.
    // Where the sums overflow, 0 times infinity is NaN.
    const double sum = product - pair * cross + total * total_k * total_l;
    const double size = std::abs(product) + pair * std::abs(cross) + total * std::abs(total_k * total_l);
    return std::abs(sum) <= kRoundoff * size ? 0.0 * std::abs(sum) : sum * scale;
  }
};

}  // namespace bido
