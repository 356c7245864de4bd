// SPDX-License-Identifier: Apache-2.0
//
// Whether float32 held a feature gradient, from the weights it was made of:
//   grad_i = sum_j A_ij (x_j - x_0) + A_ii (x_i - x_0),   A_ii = -sum_j A_ij
// Two things cancel that no bound on the Gram matrix sees. Rows far from row 0 and near each other: the
// products are as large as |x_j - x_0|, what they leave as |x_j - x_i|. And K = 1 + e where it is small: its
// digits are gone, and so are those of A, which counts where the other pairs have no part in the gradient.
// Both are in
//   noise^2 = u^2 sum_ij A_ij^2 (1/2 + q_ij^2) (R_i^2 + R_j^2),   R_j = |x_j - x_0|,  q = power e / K,
// which costs n^2 beside the n^2 d of the product. What is noisy is answered with NaN, and the caller asks
// again in float64 (bido_ext/_float64.py). reference/resolution.py has the same.
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

template <typename T, bool kOfK>
inline __attribute__((always_inline)) double noise_of(const T* weights, const T* entries,
                                                      const float* distances, float own, float shift,
                                                      float power, int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  const auto noise = [&](int64_t j) __attribute__((always_inline)) {
    const double w = static_cast<double>(weights[j]);
    float q = power;
    if (kOfK) {
      const float k = static_cast<float>(entries[j]) + shift, smallest = kSmallestK;
      q *= (k - 1) / (k < smallest ? smallest : k);
    }
    return w * w * static_cast<double>((0.5f + q * q) * (own + distances[j]));
  };
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += noise(j + l);
  for (; j < n; ++j) sum += noise(j);
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
BIDO_VECTORIZE double noise_of_small_k(const T* weights, const T* entries, const float* distances, float own,
                                       float shift, float power, int64_t n) {
  return noise_of<T, true>(weights, entries, distances, own, shift, power, n);
}

template <typename T>
BIDO_VECTORIZE double noise_of_products(const T* weights, const float* distances, float own, float power,
                                        int64_t n) {
  return noise_of<T, false>(weights, nullptr, distances, own, 0, power, n);
}

// Sums the noise of the weights of one variable. Of float64 weights and of Gram matrices there is none.
template <typename T>
class GradientNoise {
 public:
  // Entries are K - `shift`.
  GradientNoise(const Variable<T>& v, double shift) : v_(v), shift_(shift), power_(power_of(v)) {
    if (watches()) distances_.assign(v.data.size(0), 0.0f);
  }

  bool watches() const { return std::is_same_v<T, float> && v_.is_features(); }

  // Columns begin.. of row 0 of the Gram matrix; not of the linear kernel.
  void take_row_0(const T* entries, int64_t begin, int64_t count) {
    if (!watches() || v_.kind == KernelKind::linear) return;
    for (int64_t j = 0; j < count; ++j)
      distances_[begin + j] =
          begin + j == 0 ? 0.0f
                         : static_cast<float>(distance_of_entry(v_, static_cast<double>(entries[j]), shift_));
  }
  // Of the linear kernel: entry(i, j) are the products.
  template <typename Entry>
  void take_products(const Entry& entry) {
    if (!watches() || v_.kind != KernelKind::linear) return;
    for (size_t j = 0; j < distances_.size(); ++j) {
      const auto row = static_cast<int64_t>(j);
      distances_[j] = std::max(0.0f, static_cast<float>(entry(0, 0) + entry(row, row) - 2 * entry(0, row)));
    }
  }

  // Of a stretch of row i, columns begin.. of the matrix; entries of the Gram matrix beside the weights.
  double of_stretch(const T* weights, const T* entries, int64_t i, int64_t begin, int64_t count) const {
    if (!watches()) return 0;
    const float *columns = distances_.data() + begin, own = distances_[i];
    const bool of_k = v_.kind != KernelKind::linear && v_.kind != KernelKind::energy;
    return of_k ? noise_of_small_k<T>(weights, entries, columns, own, static_cast<float>(shift_), power_,
                                      count)
                : noise_of_products<T>(weights, columns, own, power_, count);
  }
  // Of the weight of a row for itself.
  double of_diagonal(double weight, int64_t i) const {
    return watches() ? weight * weight * static_cast<double>(distances_[i]) : 0;
  }

  void add(double squares) { squares_ += squares; }

  // NaN for a gradient that is noise.
  void mark(const Tensor& gradient) const {
    if (!watches() || !(squares_ > 0)) return;
    const double u = static_cast<double>(std::numeric_limits<float>::epsilon()) / 2;
    if (u * std::sqrt(squares_ * unit_of_distance(v_)) >
        kLargestNoise * std::sqrt(squared_norm_of_columns(gradient)))
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

  const Variable<T>& v_;
  double shift_, squares_ = 0;
  float power_;
  std::vector<float> distances_;
};

}  // namespace bido
