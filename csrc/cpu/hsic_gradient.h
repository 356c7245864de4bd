// SPDX-License-Identifier: Apache-2.0
//
// The gradient of a weighted sum of HSIC values with respect to one Gram matrix of the group,
//   G = sum_b c_b (L_b - (l_i + l_j) f + t_b),   zero on the diagonal for the unbiased estimator,
// made row by row, and turned into weights of the features on the way.
#pragma once

#include <vector>

#include "hsic_group.h"
#include "hsic_sums.h"

namespace bido {

template <typename T>
BIDO_VECTORIZE void start_row(const double* column_shift, double row_shift, double* g, int64_t n) {
  for (int64_t j = 0; j < n; ++j) g[j] = -column_shift[j] - row_shift;
}

template <typename T>
BIDO_VECTORIZE void add_partner(const T* entries, double coefficient, double* g, int64_t n) {
  for (int64_t j = 0; j < n; ++j) g[j] += coefficient * static_cast<double>(entries[j]);
}

template <typename T, KernelKind kKind>
inline __attribute__((always_inline)) double weights_from(const double* g, const T* own, T* out, T gamma,
                                                          int64_t n) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const T w = feature_weight(kKind, own[j + l], static_cast<T>(g[j + l]), gamma);
      out[j + l] = w;
      lanes[l] += static_cast<double>(w);
    }
  }
  for (; j < n; ++j) {
    out[j] = feature_weight(kKind, own[j], static_cast<T>(g[j]), gamma);
    sum += static_cast<double>(out[j]);
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
BIDO_VECTORIZE double finish_row(KernelKind kind, const double* g, const T* own, T* out, T gamma, int64_t n) {
  switch (kind) {
    case KernelKind::gaussian:
      return weights_from<T, KernelKind::gaussian>(g, own, out, gamma, n);
    case KernelKind::linear:
      return weights_from<T, KernelKind::linear>(g, own, out, gamma, n);
    case KernelKind::inverse_multiquadric:
      return weights_from<T, KernelKind::inverse_multiquadric>(g, own, out, gamma, n);
    default:  // a Gram matrix: its gradient is G itself
      for (int64_t j = 0; j < n; ++j) out[j] = static_cast<T>(g[j]);
      return 0;
  }
}

template <typename T>
class HsicGradient {
 public:
  // Of variable `own`; `grads` [pairs] is the gradient of the values, `sums` [m, n] the row sums.
  HsicGradient(const std::vector<Variable<T>>& group, const Pairs& pairs, size_t own, const double* grads,
               const double* sums, bool unbiased)
      : variable_(group[own]), own_(own), unbiased_(unbiased) {
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
  double row(const std::vector<const T*>& tiles, int64_t i, int64_t begin, int64_t count, T* out,
             double* g) const {
    start_row<T>(shift_.data() + begin, shift_[i] - constant_, g, count);
    for (const Partner& partner : partners_)
      add_partner<T>(tiles[partner.variable], partner.coefficient, g, count);
    const bool diagonal = i >= begin && i < begin + count;
    if (diagonal && unbiased_) g[i - begin] = 0;
    const T* entries = variable_.is_features() ? tiles[own_] : nullptr;
    double sum = finish_row<T>(variable_.kind, g, entries, out, variable_.parameter, count);
    if (diagonal && has_diagonal()) {
      sum -= static_cast<double>(out[i - begin]);
      out[i - begin] = T(0);
    }
    return sum;
  }

 private:
  const Variable<T>& variable_;
  size_t own_;
  bool unbiased_;
  std::vector<Partner> partners_;
  std::vector<double> shift_;
  double constant_ = 0;
};

}  // namespace bido
