// SPDX-License-Identifier: Apache-2.0
//
// The gradient of a weighted sum of HSIC values with respect to one Gram matrix of the group,
//   G = sum_b c_b (L_b - (l_i + l_j) f + t_b),   zero on the diagonal for the unbiased estimator,
// made row by row, and turned into weights of the features on the way.
#pragma once

#include <algorithm>
#include <vector>

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
};

template <typename T, KernelKind kKind, int kPartners>
inline __attribute__((always_inline)) double weights_of_row(const RowTask<T>& task, T* out, int64_t n) {
  const double* shift = task.column_shift;
  const double row_shift = task.row_shift;
  const T* own = task.own;
  const KernelParameters<T> p = task.parameters;
  const T shift_of_own = task.shift;
  const T* partners[kPartners];
  double coefficients[kPartners];
  for (int b = 0; b < kPartners; ++b) {
    partners[b] = task.partners[b];
    coefficients[b] = task.coefficients[b];
  }
  const auto weight = [&](int64_t j) __attribute__((always_inline)) {
    double g = -shift[j] - row_shift;
    for (int b = 0; b < kPartners; ++b) g += coefficients[b] * static_cast<double>(partners[b][j]);
    return kKind == KernelKind::gram ? static_cast<T>(g)
                                     : feature_weight(kKind, own[j], static_cast<T>(g), p, shift_of_own);
  };
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const T w = weight(j + l);
      out[j + l] = w;
      lanes[l] += static_cast<double>(w);
    }
  }
  for (; j < n; ++j) {
    out[j] = weight(j);
    sum += static_cast<double>(out[j]);
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T, KernelKind kKind>
inline __attribute__((always_inline)) double weights_of_kind(const RowTask<T>& task, T* out, int64_t n) {
  switch (task.count) {
    case 0:
      std::fill(out, out + n, T(0));
      return 0;
    case 1:
      return weights_of_row<T, kKind, 1>(task, out, n);
    case 2:
      return weights_of_row<T, kKind, 2>(task, out, n);
    default:  // of BiDO: X, the labels and, for CKA, the layer itself
      return weights_of_row<T, kKind, 3>(task, out, n);
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
  // belongs there and left out of the sum: it cancels against itself.
  double row(const std::vector<const T*>& tiles, int64_t i, int64_t begin, int64_t count, T* out) const {
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
                            own_shift_};
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
