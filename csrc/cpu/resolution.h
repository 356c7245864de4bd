// SPDX-License-Identifier: Apache-2.0
//
// Whether a dtype resolves the Gram matrix of a variable. What float32 does not, a kernel answers with NaN;
// the caller asks again in float64 (bido_ext/_float64.py), which makes near distances from differences
// (gram.h).
//
// With u the round-off, the error of an entry is about u s (N_i + N_j), N_i the squared norm of the centered
// row and s = |de/dD|: gamma K (Gaussian), K^3 / 2 (inverse multiquadric). N_i is large against the distances
// that matter where rows are far from the mean and have neighbours there: clusters, or the rest beside an
// outlier, which moves the mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/kernel_tile.h"
#include "../common/resolution.h"
#include "gram.h"
#include "hsic_sums.h"
#include "variable.h"

namespace bido {

// Of float32, the largest gamma N, and of (1 + gamma D)^-alpha, whose near pairs weigh most, the largest
// (alpha + 1) gamma N: up to here the error of a weight is a few units of round-off, whatever the rows are.
constexpr double kFarthest = 4, kFarthestOfPowers = 24;
// Of float32: K = 1 + e keeps its digits only where it is not small. Of the rows with the smallest means, a
// share of all: duplicates have K = 1 beside each other, and no part in the gradient.
constexpr double kSmallestMean = 0.02;
constexpr int64_t kShareOfRows = 8;

inline double smallest_mean_of_k(const double* sums, int64_t n, int64_t count) {
  std::vector<double> ordered(sums, sums + n);
  count = std::max<int64_t>(1, count);
  std::nth_element(ordered.begin(), ordered.begin() + count - 1, ordered.end());
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += ordered[i];
  return 1 + total / (static_cast<double>(count) * static_cast<double>(n - 1));
}

// Of float32: the largest norm against the median. Of the linear kernel products with an outlier are nearly
// the same for all other rows, and centering leaves their difference; of the others, where the K of a row are
// small, its large differences multiply their round-off.
constexpr double kLargestOutlier = 100;

template <typename T>
double median_of(const T* values, int64_t n) {
  std::vector<T> ordered(values, values + n);
  std::nth_element(ordered.begin(), ordered.begin() + n / 2, ordered.end());
  return static_cast<double>(ordered[n / 2]);
}

// norms [n]: squared norms of the centered rows; sums [n]: of the rows of the Gram matrix up to centering,
// the diagonal is 0. NaN is never resolved.
template <typename T>
bool resolves(const Variable<T>& v, const T* norms, const double* sums, int64_t n) {
  if (!v.is_features() || n < 2) return true;
  double largest = 0, total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto norm = static_cast<double>(norms[i]);
    if (!std::isfinite(norm)) return false;
    largest = std::max(largest, norm);
    total += sums[i];
  }
  if (std::is_same_v<T, double>) return true;
  if (std::isnan(total)) return false;
  if (!is_in_range(v.kind, v.exact_parameter, largest)) return false;
  if (v.kind == KernelKind::linear) {
    return largest <= kLargestOutlier * median_of(norms, n);
  }
  if (v.kind == KernelKind::energy) return true;
  const double gamma = v.kind == KernelKind::inverse_multiquadric ? 1 : v.exact_parameter;
  // Of the Laplacian kernel, in distances and not in their squares.
  const double scale = v.kind == KernelKind::laplacian ? gamma * gamma : gamma;
  const bool exponential = v.kind == KernelKind::gaussian || v.kind == KernelKind::laplacian;
  const double alpha = v.kind == KernelKind::rational_quadratic ? v.alpha : 0.5;
  if ((exponential ? 1 : alpha + 1) * scale * largest > (exponential ? kFarthest : kFarthestOfPowers))
    return false;
  if (smallest_mean_of_k(sums, n, n / kShareOfRows) < kSmallestMean) return false;
  return smallest_mean_of_k(sums, n, 1) >= kSmallestMean || largest <= kLargestOutlier * median_of(norms, n);
}

// NaN for the first entry of what is not resolved, of whole Gram matrices.
template <typename T>
void mark_unresolved(const std::vector<Variable<T>>& features, const std::vector<TileStore<T>>& stores,
                     const std::vector<Scratch<T>>& norms, bool minus_one = true) {
  for (size_t v = 0; v < features.size(); ++v) {
    const int64_t n = stores[v].n;
    std::vector<double> sums(n);
    torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        sums[i] = row_sum(stores[v].data + i * n, n) - static_cast<double>(minus_one ? 0 : n);
    });
    if (!resolves<T>(features[v], norms[v].get(), sums.data(), n))
      stores[v].data[0] = std::numeric_limits<T>::quiet_NaN();
  }
}

}  // namespace bido
