// SPDX-License-Identifier: Apache-2.0
//
// Lc A for Lc = H L H, L = scale [y_i = y_j], and A whose columns sum to zero: Lc A = scale H Y (Y'A) with Y
// one-hot, sums over classes in place of a product with n x n entries. Rows of one class are equal, so the
// result has a row per class. Columns are independent; they come in blocks.
#pragma once

#include <algorithm>
#include <vector>

#include "hsic_sums.h"
#include "label_classes.h"

namespace bido {

constexpr int64_t kLabelColumns = 64;  // of a block, whose rows of all classes stay in cache

// row - shift, also added up times the size of the class.
inline BIDO_VECTORIZE void shift_row(double* row, const double* shift, double size, double* mean, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    row[j] -= shift[j];
    mean[j] += size * row[j];
  }
}

inline BIDO_VECTORIZE void scale_row(double* row, const double* mean, double scale, int64_t n) {
  for (int64_t j = 0; j < n; ++j) row[j] = scale * (row[j] - mean[j]);
}

class LabelProduct {
 public:
  LabelProduct(const int64_t* y, double scale, int64_t n) : classes_(y, n), scale_(scale) {
    for (int64_t i = 0; i < n; ++i) mean_ += share(i) / static_cast<double>(n);
  }
  const LabelClasses& classes() const { return classes_; }

  // M = Lc A, [classes, width], of `width` columns of A; fill(i, out) gives those of row i.
  template <typename Fill>
  void multiply(const Fill& fill, int64_t width, double* M) const {
    double row[kLabelColumns];
    std::fill(M, M + classes_.count() * width, 0.0);
    for (int64_t c = 0; c < classes_.count(); ++c) {
      for (const int64_t* i = classes_.begin(c); i < classes_.end(c); ++i) {
        fill(*i, row);
        add_row_to_sums(row, M + c * width, width);
      }
    }
    center(M, width);
  }
  // Lc M in place.
  void multiply_again(double* M, int64_t width) const {
    for (int64_t c = 0; c < classes_.count(); ++c)
      for (int64_t j = 0; j < width; ++j) M[c * width + j] *= classes_.size(c);
    center(M, width);
  }
  // Of all rows, those of one class counted as often as it has samples.
  double squared_norm(const double* M, int64_t width) const {
    double sum = 0;
    for (int64_t c = 0; c < classes_.count(); ++c)
      sum += classes_.size(c) * row_product(M + c * width, M + c * width, width);
    return sum;
  }
  // `width` entries of row i of Lc itself from j on.
  void fill(int64_t i, int64_t j, int64_t width, double* out) const {
    for (int64_t k = 0; k < width; ++k) {
      const double same = classes_.class_of(i) == classes_.class_of(j + k) ? 1 : 0;
      out[k] = scale_ * (same - share(i) - (share(j + k) - mean_));
    }
  }

 private:
  // scale H, from the first class on: a single one gives zeros then, not round-off.
  void center(double* M, int64_t width) const {
    double shift[kLabelColumns], mean[kLabelColumns] = {};
    std::copy(M, M + width, shift);
    for (int64_t c = 0; c < classes_.count(); ++c)
      shift_row(M + c * width, shift, classes_.size(c), mean, width);
    for (int64_t j = 0; j < width; ++j) mean[j] /= static_cast<double>(classes_.samples());
    for (int64_t c = 0; c < classes_.count(); ++c) scale_row(M + c * width, mean, scale_, width);
  }

  // The mean of row i of [y_i = y_j].
  double share(int64_t i) const {
    return classes_.size_of_class_of(i) / static_cast<double>(classes_.samples());
  }

  LabelClasses classes_;
  double scale_, mean_ = 0;  // of all entries
};

}  // namespace bido
