// SPDX-License-Identifier: Apache-2.0
//
// Whether float32 held a feature gradient, from the weights it was made of:
//   grad_i = sum_j A_ij (x_j - x_0) + A_ii (x_i - x_0),   A_ii = -sum_j A_ij
// Two things cancel that no bound on the Gram matrix sees. Rows far from row 0 and near each other: the
// products are as large as |x_j - x_0|, what they leave as |x_j - x_i|. And K = 1 + e where it is small: its
// digits are gone, and so are those of A, which counts where the other pairs have no part in the gradient.
// Both are in
//   noise^2 = u^2 sum_ij A_ij^2 (1/2 + q_ij^2) (R_i^2 + R_j^2),   R_j = |x_j - x_0|,  q = power e / K,
// which the kernels that make the weights add up on the way. What is noisy is answered with NaN, and the
// caller asks again in float64 (bido_ext/_float64.py). reference/resolution.py has the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/kernel_tile.h"
#include "../common/resolution.h"
#include "feature_rows.h"
#include "variable.h"
#include "vectorize.h"

namespace bido {

// Against the norm of the gradient.
constexpr double kLargestNoise = 3e-6;
constexpr double kSmallestK = 3e-8;  // of float32 entries K - 1

// |x_j - x_0|^2 from the entry of rows 0 and j, in units of the bandwidth where the kernel has one: floats
// hold them.
template <typename T>
double distance_of_entry(const Variable<T>& v, double entry, double shift) {
  const double k = std::max(kSmallestK, entry + shift);
  switch (v.kind) {
    case KernelKind::gaussian:
      return -std::log(k);
    case KernelKind::laplacian:
      return std::pow(std::log(k), 2);
    case KernelKind::energy:
      return std::pow(-entry, 2 / v.exact_parameter);
    case KernelKind::rational_quadratic:
      return std::pow(k, -1 / v.alpha) - 1;
    default:
      return 1 / (k * k) - 1;
  }
}

template <typename T>
double unit_of_distance(const Variable<T>& v) {
  switch (v.kind) {
    case KernelKind::gaussian:
    case KernelKind::rational_quadratic:
      return 1 / v.exact_parameter;
    case KernelKind::laplacian:
      return std::pow(v.exact_parameter, -2);
    default:
      return 1;
  }
}

// What one weight adds to the noise, but for the factor noise_scale: A_ij^2 (1/2 + q_ij^2), from the weight A
// and the gradient g it was made of. Of the Gaussian kernel A = 4 gamma g K, and K^2/2 + (1 - K)^2 is between
// 1/3 and 1: taken for 1, it needs no look at K.
template <KernelKind kKind>
inline __attribute__((always_inline)) double noise_of_weight(double grad, float weight, float entry,
                                                             float shift, float power) {
  if constexpr (kKind == KernelKind::gaussian || kKind == KernelKind::linear) return grad * grad;
  const double w = static_cast<double>(weight);
  if constexpr (kKind == KernelKind::energy) return w * w;
  const float k = entry + shift, smallest = kSmallestK;
  const float q = power * (k - 1) / (k < smallest ? smallest : k);
  return w * w * static_cast<double>(0.5f + q * q);
}

// The sum of squares of weights.
template <typename T>
BIDO_VECTORIZE double squares_of_weights(const T* weights, int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double w = static_cast<double>(weights[j + l]);
      lanes[l] += w * w;
    }
  }
  for (; j < n; ++j) sum += static_cast<double>(weights[j]) * static_cast<double>(weights[j]);
  for (double lane : lanes) sum += lane;
  return sum;
}

// Sums the noise of the weights of one variable. Of float64 weights and of Gram matrices there is none.
template <typename T>
class GradientNoise {
 public:
  // Entries are K - `shift`.
  GradientNoise(const Variable<T>& v, double shift) : v_(v), shift_(shift), power_(power_of(v)) {
    if (watches()) distances_.assign(v.data.size(0), 0.0);
  }

  bool watches() const { return std::is_same_v<T, float> && v_.is_features(); }

  // Columns begin.. of row 0 of the Gram matrix; not of the linear kernel.
  void take_row_0(const T* entries, int64_t begin, int64_t count) {
    if (!watches() || v_.kind == KernelKind::linear) return;
    for (int64_t j = 0; j < count; ++j)
      distances_[begin + j] =
          begin + j == 0 ? 0.0 : distance_of_entry(v_, static_cast<double>(entries[j]), shift_);
  }
  // Of the linear kernel: entry(i, j) are the products.
  template <typename Entry>
  void take_products(const Entry& entry) {
    if (!watches() || v_.kind != KernelKind::linear) return;
    for (size_t j = 0; j < distances_.size(); ++j) {
      const auto row = static_cast<int64_t>(j);
      distances_[j] = std::max(0.0, static_cast<double>(entry(0, 0) + entry(row, row) - 2 * entry(0, row)));
    }
  }

  // |x_j - x_0|^2 from column `begin` on, in the unit of unit_of_distance; null where there is no noise.
  const double* distances(int64_t begin) const { return watches() ? distances_.data() + begin : nullptr; }
  float power() const { return power_; }

  // Sums of noise_of_weight (R_i^2 + R_j^2) over pairs.
  void add(double squares) { squares_ += squares; }
  // Of the weight of a row for itself.
  void add_diagonal(double weight, int64_t i) {
    if (watches()) of_diagonal_ += weight * weight * distances_[i];
  }

  // NaN for a gradient that is noise, or of weights beyond float32.
  void mark(const Tensor& gradient) const {
    const double squares = scale() * squares_ + of_diagonal_;
    if (!watches() || !(squares > 0)) return;
    const double u = static_cast<double>(std::numeric_limits<float>::epsilon()) / 2;
    const double size = std::sqrt(squared_norm_of_columns(gradient));
    if (!std::isfinite(size) || u * std::sqrt(squares * unit_of_distance(v_)) > kLargestNoise * size)
      torch::stable::fill_(gradient, std::numeric_limits<double>::quiet_NaN());
  }

 private:
  // Of K in the weights, or what stands for it.
  static float power_of(const Variable<T>& v) {
    switch (v.kind) {
      case KernelKind::linear:
        return 0;
      case KernelKind::energy:
        return static_cast<float>(1 - 2 / v.exact_parameter);
      case KernelKind::laplacian:
        return 2;
      default:
        return static_cast<float>(power_in_weight(v.kind, v.alpha));
    }
  }
  // Of noise_of_weight.
  double scale() const {
    switch (v_.kind) {
      case KernelKind::gaussian:
        return 16 * v_.exact_parameter * v_.exact_parameter;
      case KernelKind::linear:
        return 2;
      case KernelKind::energy:
        return 0.5 + static_cast<double>(power_) * static_cast<double>(power_);
      default:
        return 1;
    }
  }

  const Variable<T>& v_;
  double shift_, squares_ = 0, of_diagonal_ = 0;
  float power_;
  std::vector<double> distances_;
};

}  // namespace bido
