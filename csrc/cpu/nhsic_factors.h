// SPDX-License-Identifier: Apache-2.0
//
// The factors of nhsic, S = Kc (Kc + c I)^-1 = I - c P and P = (Kc + c I)^-1, Kc = H K H, in float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "centered_gram.h"
#include "equal_rows.h"
#include "gram_roundoff.h"
#include "label_classes.h"
#include "mirror.h"
#include "pair_factors.h"
#include "spd_inverse.h"

namespace bido {

// The spectral norm of the round-off of a Gram matrix that is allowed (reference/resolution.py). Of float64,
// and of a Gram matrix that was given, against c. Of float32 features times |H P H|: a Gram matrix that is
// large against c in all directions is resolved, however small c is. And of few large directions the value
// may be small: then against sqrt(n) |S| as well.
template <typename T>
constexpr double kLargestRoundoff = sizeof(T) == 8 ? 1e-6 : 1e-4;
constexpr double kLargestBesideFactor = 1e-6;
constexpr double kLargestAmplified = 1.5e-5;

// Where K is smaller than this against c, I - c P cancels: of entries far below the largest nothing may be
// left.
constexpr double kSmallestGram = 1e-2;

// c |H P H| = |H - S| by three steps of the power method, from a vector that no S is made for.
inline double largest_rest(const double* S, int64_t n) {
  std::vector<double> v(n), next(n);
  double mean = 0, before = 0, after = 0;
  for (int64_t i = 0; i < n; ++i) {
    v[i] = static_cast<double>((static_cast<uint64_t>(i + 1) * 2654435761u >> 7) % 1024) - 511.5;
    mean += v[i] / static_cast<double>(n);
  }
  for (double& entry : v) entry -= mean;
  for (int step = 0; step < 3; ++step) {
    torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) next[i] = v[i] - row_product(S + i * n, v.data(), n);
    });
    before = row_product(v.data(), v.data(), n);
    after = row_product(next.data(), next.data(), n);
    std::swap(v, next);
  }
  return before > 0 ? std::sqrt(after / before) : 0.0;
}

// Whether features resolve the ridge, once their factor is made.
template <typename T>
bool resolves_ridge(const T* gram, bool given, const double* S, double c, int64_t n) {
  const double roundoff = roundoff_of(gram, n);
  if (std::is_same_v<T, double> || given) return roundoff <= kLargestRoundoff<T> * c;
  const double size = std::sqrt(static_cast<double>(n) * squared_norm_of(S, n));
  return roundoff * largest_rest(S, n) <= std::min(kLargestAmplified, kLargestBesideFactor * size) * c;
}

// Entries i.. of row i of Kc + c I to out[i..n).
template <typename T>
void fill_ridge(const CenteredGram<T>& Kc, double c, int64_t i, double* out, int64_t n) {
  Kc.fill(i, i, n - i, out + i);
  out[i] += c;
}

// S of a Gram matrix that is small against c, from I - c P: Kc P = Kc (I - S) / c, whose first term has all
// digits.
template <typename T>
void factor_of_small(const CenteredGram<T>& Kc, double c, int64_t n, double* S) {
  const std::vector<double> before(S, S + n * n);
  torch::stable::parallel_for(0, n, 8, [&](int64_t first, int64_t last) {
    std::vector<double> row(n);
    for (int64_t i = first; i < last; ++i) {
      Kc.fill(i, 0, n, row.data());
      for (int64_t j = i; j < n; ++j)
        S[i * n + j] = S[j * n + i] = (row[j] - row_product(row.data(), before.data() + j * n, n)) / c;
    }
  });
}

// S and, unless null, P of few samples, on the calling thread.
template <typename T>
void factor_of_few(const T* gram, bool given, double c, int64_t n, double* S, double* P) {
  const CenteredGram<T> Kc(gram, given, n);
  std::vector<double> column(n);
  for (int64_t i = 0; i < n; ++i) fill_ridge(Kc, c, i, S + i * n, n);
  if (!sweep(S, column.data(), n)) std::fill(S, S + n * n, std::numeric_limits<double>::quiet_NaN());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      const double swept = S[i * n + j];
      if (P != nullptr) P[i * n + j] = P[j * n + i] = -swept;
      S[i * n + j] = S[j * n + i] = (i == j ? 1.0 : 0.0) + c * swept;
    }
  }
  if (std::sqrt(squared_norm_of(gram, n)) <= kSmallestGram * c) factor_of_small(Kc, c, n, S);
}

// The same of many samples, on all threads. `work` is a buffer of n rows of n entries.
template <typename T>
void factor_of_many(const T* gram, bool given, double c, int64_t n, double* S, double* P,
                    RowBuffer<double>& work) {
  const CenteredGram<T> Kc(gram, given, n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) fill_ridge(Kc, c, i, work.row(i), n);
  });
  const bool positive = sweep_blocks(work.row(0), n, work.stride());
  mirror_upper(work.row(0), n, work.stride());
  const double sign = positive ? 1 : std::numeric_limits<double>::quiet_NaN();
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double* swept = work.row(i);
      for (int64_t j = 0; j < n; ++j) S[i * n + j] = sign * c * swept[j];
      S[i * n + i] += 1;
      if (P == nullptr) continue;
      for (int64_t j = 0; j < n; ++j) P[i * n + j] = -sign * swept[j];
    }
  });
  if (std::sqrt(squared_norm_of(gram, n)) <= kSmallestGram * c) factor_of_small(Kc, c, n, S);
}

template <typename T>
void average_equal_rows(const T* gram, int64_t n, double* S, double* P) {
  if (std::is_same_v<T, float>) return;
  const EqualRows rows(gram, n);
  if (!rows.any()) return;
  rows.average_factor(S);
  if (P != nullptr) rows.average_inverse(P);
}

// S of scale H [y_i = y_j] H in closed form, as ops/nhsic.py: label_factor.
inline void factor_of_labels(const int64_t* y, double scale, double c, int64_t n, double* S) {
  const double ridge = c / scale, count = static_cast<double>(n);
  const LabelClasses classes(y, n);
  if (classes.count() == 1) return std::fill(S, S + n * n, 0.0);  // and no round-off
  std::vector<double> weight(n), offset(n);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    weight[i] = 1 / (classes.size_of_class_of(i) + ridge);
    offset[i] = ridge * weight[i];  // g
    total += offset[i];
  }
  const double mean = total / count;
  for (double& g : offset) g -= mean;
  torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < n; ++j)
        S[i * n + j] = (y[i] == y[j] ? weight[i] : 0.0) + (offset[i] + offset[j] - (1 - mean)) / count +
                       offset[i] * offset[j] / total;
  });
}

}  // namespace bido
