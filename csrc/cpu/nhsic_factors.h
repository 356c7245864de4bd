// SPDX-License-Identifier: Apache-2.0
//
// The factors of nhsic, S = Kc (Kc + c I)^-1 = I - c P and P = (Kc + c I)^-1, Kc = H K H, in float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "centered_gram.h"
#include "label_classes.h"
#include "mirror.h"
#include "pair_factors.h"
#include "spd_inverse.h"

namespace bido {

// The spectral norm of the round-off of a Gram matrix, against c, that is allowed (reference/resolution.py).
template <typename T>
constexpr double kLargestRoundoff = sizeof(T) == 8 ? 1e-6 : 1e-4;

// Where K is smaller than this against c, I - c P cancels, and S is K / c to as many digits.
constexpr double kSmallestGram = 1e-8;

template <typename T>
double squared_norm_of(const T* gram, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += row_product(gram + i * n, gram + i * n, n);
  return squares;
}

template <typename T>
bool resolves_ridge(const T* gram, double c, int64_t n) {
  const double squares = squared_norm_of(gram, n);
  const double u = static_cast<double>(std::numeric_limits<T>::epsilon());
  return u * std::sqrt(squares / static_cast<double>(n)) <= kLargestRoundoff<T> * c;
}

// Entries i.. of row i of Kc + c I to out[i..n).
template <typename T>
void fill_ridge(const CenteredGram<T>& Kc, double c, int64_t i, double* out, int64_t n) {
  Kc.fill(i, i, n - i, out + i);
  out[i] += c;
}

// S of a Gram matrix that is small against c.
template <typename T>
void factor_of_small(const CenteredGram<T>& Kc, double c, int64_t n, double* S) {
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Kc.fill(i, 0, n, S + i * n);
      for (int64_t j = 0; j < n; ++j) S[i * n + j] /= c;
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

// S of scale H [y_i = y_j] H in closed form, as ops/nhsic.py: label_factor.
inline void factor_of_labels(const int64_t* y, double scale, double c, int64_t n, double* S) {
  const double ridge = c / scale, count = static_cast<double>(n);
  const LabelClasses classes(y, n);
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
