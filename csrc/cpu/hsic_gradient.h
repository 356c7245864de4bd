// SPDX-License-Identifier: Apache-2.0
//
// The gradient of a weighted sum of HSIC values with respect to one Gram matrix of the group,
//   G = sum_b c_b (L_b - (l_i + l_j) f + t_b),   zero on the diagonal for the unbiased estimator,
// made row by row, and turned into weights of the features on the way.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gradient_noise.h"
#include "hsic_group.h"
#include "hsic_sums.h"

namespace bido {

// What one stretch of a row needs: the partners' entries and coefficients, the shifts, the own entries.
template <typename T>
struct RowTask {
  const T* const* partners;
  const double* coefficients;
  int64_t count;  // of partners
  const double* column_shift;
  double row_shift;
  const T* own;  // null for a Gram matrix, whose gradient is G itself
  KernelParameters<T> parameters;
  T shift;
  const double* distances;  // of the columns from row 0, for the noise; null: not looked at
  double own_distance;
  float power;
  double* noise;  // is added to
};

constexpr int64_t kStretch = 64;

template <typename T, KernelKind kKind, int kPartners, bool kNoise>
inline __attribute__((always_inline)) double weights_of_row(const RowTask<T>& task, T* out, int64_t n) {
  const double* shift = task.column_shift;
  const double constant = -task.row_shift;
  const T* own = task.own;
  const KernelParameters<T> p = task.parameters;
  const T shift_of_own = task.shift;
  const double *distances = task.distances, own_distance = task.own_distance;
  const float power = task.power;
  const T* partners[kPartners];
  double coefficients[kPartners];
  for (int b = 0; b < kPartners; ++b) {
    partners[b] = task.partners[b];
    coefficients[b] = task.coefficients[b];
  }
  const auto gradient = [&](int64_t j) __attribute__((always_inline)) {
    double g = constant - shift[j];
    for (int b = 0; b < kPartners; ++b) g += coefficients[b] * static_cast<double>(partners[b][j]);
    return g;
  };
  const auto weight = [&](int64_t j, double g) __attribute__((always_inline)) {
    return kKind == KernelKind::gram ? static_cast<T>(g)
                                     : feature_weight(kKind, own[j], static_cast<T>(g), p, shift_of_own);
  };
  const auto noise = [&](int64_t j, double g, T w) __attribute__((always_inline)) {
    return noise_of_weight<kKind>(g, static_cast<float>(w), static_cast<float>(own[j]),
                                  static_cast<float>(shift_of_own), power) *
           (own_distance + distances[j]);
  };
  // In stretches, each step in a loop of its own, or none of them is vectorised.
  double lanes[kLanes] = {}, noises[kLanes] = {}, sum = 0, noise_sum = 0, grads[kStretch];
  const auto stretch = [&](int64_t begin, auto count) __attribute__((always_inline)) {
    const int64_t whole = count / kLanes * kLanes;
    T* __restrict weights = out + begin;
    for (int64_t j = 0; j < count; ++j) grads[j] = gradient(begin + j);
    for (int64_t j = 0; j < count; ++j) weights[j] = weight(begin + j, grads[j]);
    for (int64_t j = 0; j < whole; j += kLanes)
      for (int l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(weights[j + l]);
    for (int64_t j = whole; j < count; ++j) sum += static_cast<double>(weights[j]);
    if constexpr (kNoise) {
      constexpr bool kSimple = kKind == KernelKind::gaussian || kKind == KernelKind::linear;
      const auto noise_of = [&](int64_t j) __attribute__((always_inline)) {
        return noise(begin + j, grads[j], weights[j]);
      };
      for (int64_t j = 0; !kSimple && j < count; ++j) grads[j] = noise_of(j);
      for (int64_t j = 0; j < whole; j += kLanes)
        for (int l = 0; l < kLanes; ++l) noises[l] += kSimple ? noise_of(j + l) : grads[j + l];
      for (int64_t j = whole; j < count; ++j) noise_sum += kSimple ? noise_of(j) : grads[j];
    }
  };
  int64_t begin = 0;
  for (; begin + kStretch <= n; begin += kStretch)
    stretch(begin, std::integral_constant<int64_t, kStretch>());
  if (begin < n) stretch(begin, n - begin);
  for (double lane : lanes) sum += lane;
  if constexpr (kNoise) {
    for (double lane : noises) noise_sum += lane;
    *task.noise += noise_sum;
  }
  return sum;
}

template <typename T, KernelKind kKind, int kPartners>
inline __attribute__((always_inline)) double weights_of_partners(const RowTask<T>& task, T* out, int64_t n) {
  if constexpr (std::is_same_v<T, float> && kKind != KernelKind::gram)
    if (task.distances != nullptr) return weights_of_row<T, kKind, kPartners, true>(task, out, n);
  return weights_of_row<T, kKind, kPartners, false>(task, out, n);
}

template <typename T, KernelKind kKind>
inline __attribute__((always_inline)) double weights_of_kind(const RowTask<T>& task, T* out, int64_t n) {
  switch (task.count) {
    case 0:
      std::fill(out, out + n, T(0));
      return 0;
    case 1:
      return weights_of_partners<T, kKind, 1>(task, out, n);
    case 2:
      return weights_of_partners<T, kKind, 2>(task, out, n);
    default:  // of BiDO: X, the labels and, for CKA, the layer itself
      return weights_of_partners<T, kKind, 3>(task, out, n);
  }
}

template <typename T>
BIDO_VECTORIZE double weights_row(KernelKind kind, const RowTask<T>& task, T* out, int64_t n) {
  switch (kind) {
    case KernelKind::gaussian:
      return weights_of_kind<T, KernelKind::gaussian>(task, out, n);
    case KernelKind::linear:
      return weights_of_kind<T, KernelKind::linear>(task, out, n);
    case KernelKind::inverse_multiquadric:
      return weights_of_kind<T, KernelKind::inverse_multiquadric>(task, out, n);
    case KernelKind::laplacian:
      return weights_of_kind<T, KernelKind::laplacian>(task, out, n);
    case KernelKind::energy:
      return weights_of_kind<T, KernelKind::energy>(task, out, n);
    case KernelKind::rational_quadratic:
      return weights_of_kind<T, KernelKind::rational_quadratic>(task, out, n);
    default:
      return weights_of_kind<T, KernelKind::gram>(task, out, n);
  }
}

// row[j] = sum of coefficients[b] * partners[b][j]: more partners than three are added up first.
template <typename T>
BIDO_VECTORIZE void combine_partners(const T* const* partners, const double* coefficients, int64_t count,
                                     T* row, int64_t n) {
  for (int64_t j = 0; j < n; ++j)
    row[j] = static_cast<T>(coefficients[0] * static_cast<double>(partners[0][j]));
  for (int64_t b = 1; b < count; ++b)
    for (int64_t j = 0; j < n; ++j)
      row[j] += static_cast<T>(coefficients[b] * static_cast<double>(partners[b][j]));
}

template <typename T>
class HsicGradient {
 public:
  // Of variable `own`; `grads` [pairs] is the gradient of the values, `sums` [m, n] the row sums; entries are
  // K - `shift`.
  HsicGradient(const std::vector<Variable<T>>& group, const Pairs& pairs, size_t own, const double* grads,
               const double* sums, bool unbiased, T shift)
      : variable_(group[own]), own_(own), unbiased_(unbiased), own_shift_(shift) {
    const int64_t n = variable_.data.size(0), m = static_cast<int64_t>(group.size());
    const Estimator estimator(n, unbiased);
    std::vector<double> coefficients(m, 0.0);
    for (size_t p = 0; p < pairs.count(); ++p) {
      if (pairs.first[p] == static_cast<int64_t>(own)) coefficients[pairs.second[p]] += grads[p];
      if (pairs.second[p] == static_cast<int64_t>(own)) coefficients[pairs.first[p]] += grads[p];
    }
    shift_.assign(n, 0.0);
    for (int64_t b = 0; b < m; ++b) {
      const double c = coefficients[b] * estimator.scale;
      if (c == 0) continue;
      partners_.push_back({static_cast<size_t>(b), c});
      double total = 0;
      for (int64_t i = 0; i < n; ++i) {
        total += sums[b * n + i];
        shift_[i] += c * estimator.pair / 2 * sums[b * n + i];
      }
      constant_ += c * estimator.total * total;
    }
  }

  struct Partner {
    size_t variable;
    double coefficient;
  };
  const std::vector<Partner>& partners() const { return partners_; }
  const Variable<T>& variable() const { return variable_; }
  size_t own() const { return own_; }
  bool has_diagonal() const { return variable_.is_features() && variable_.kind != KernelKind::linear; }

  // Weights of one stretch of row i of the matrix, columns begin..begin + count; returns their sum. `tiles`
  // are those of all variables, already advanced to the stretch. An entry on the diagonal is set to what
  // belongs there and left out of the sum: it cancels against itself. Adds what the weights have of noise to
  // `squares`, unless null.
  double row(const std::vector<const T*>& tiles, int64_t i, int64_t begin, int64_t count, T* out,
             const GradientNoise<T>& noise, double* squares) const {
    constexpr size_t kMost = 3;
    const T* entries[kMost] = {};
    double coefficients[kMost] = {};
    std::vector<T> combined;
    auto used = static_cast<int64_t>(partners_.size());
    if (partners_.size() <= kMost) {
      for (size_t b = 0; b < partners_.size(); ++b) {
        entries[b] = tiles[partners_[b].variable];
        coefficients[b] = partners_[b].coefficient;
      }
    } else {
      std::vector<const T*> all;
      std::vector<double> weights;
      for (const Partner& partner : partners_) {
        all.push_back(tiles[partner.variable]);
        weights.push_back(partner.coefficient);
      }
      combined.resize(count);
      combine_partners<T>(all.data(), weights.data(), used, combined.data(), count);
      entries[0] = combined.data();
      coefficients[0] = 1;
      used = 1;
    }
    const double* distances = squares != nullptr ? noise.distances(begin) : nullptr;
    const auto stretch = [&](int64_t first, int64_t last) {
      const T* partners[kMost] = {};
      for (int64_t b = 0; b < used; ++b) partners[b] = entries[b] + first;
      const RowTask<T> task{partners,
                            coefficients,
                            used,
                            shift_.data() + begin + first,
                            shift_[i] - constant_,
                            variable_.is_features() ? tiles[own_] + first : nullptr,
                            variable_.parameters(),
                            own_shift_,
                            distances != nullptr ? distances + first : nullptr,
                            distances != nullptr ? *noise.distances(i) : 0,
                            noise.power(),
                            squares};
      return weights_row<T>(variable_.kind, task, out + first, last - first);
    };
    const int64_t diagonal = i - begin;
    if (diagonal < 0 || diagonal >= count || !(has_diagonal() || unbiased_)) return stretch(0, count);
    // Left out, and not subtracted: beside K_ii = 1 the others may be small.
    const double before = stretch(0, diagonal);
    out[diagonal] = T(0);
    return before + stretch(diagonal + 1, count);
  }

 private:
  const Variable<T>& variable_;
  size_t own_;
  bool unbiased_;
  T own_shift_;  // entries of the own Gram matrix are K less this
  std::vector<Partner> partners_;
  std::vector<double> shift_;
  double constant_ = 0;
};

}  // namespace bido
