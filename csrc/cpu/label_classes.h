// SPDX-License-Identifier: Apache-2.0
//
// Labels as classes 0, 1, ... in the order of the labels, whatever integers they are, and products with
// Lc = H L H of their kernel L = scale [y_i = y_j].
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace bido {

class LabelClasses {
 public:
  LabelClasses(const int64_t* y, int64_t n) : samples_(n), class_of_(n) {
    std::iota(samples_.begin(), samples_.end(), int64_t{0});
    std::stable_sort(samples_.begin(), samples_.end(), [&](int64_t a, int64_t b) { return y[a] < y[b]; });
    for (int64_t k = 0; k < n; ++k) {
      if (k == 0 || y[samples_[k]] != y[samples_[k - 1]]) sizes_.push_back(0);
      sizes_.back() += 1;
      class_of_[samples_[k]] = count() - 1;
    }
  }
  int64_t samples() const { return static_cast<int64_t>(samples_.size()); }
  int64_t count() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t class_of(int64_t sample) const { return class_of_[sample]; }
  double size(int64_t c) const { return sizes_[c]; }

  // The sum of a row over the samples of each class.
  void sums(const double* row, double* out) const {
    const int64_t* sample = samples_.data();
    for (int64_t c = 0; c < count(); ++c) {
      const int64_t* end = sample + static_cast<int64_t>(sizes_[c]);
      double sum = 0;
      for (; sample < end; ++sample) sum += row[*sample];
      out[c] = sum;
    }
  }

 private:
  std::vector<int64_t> samples_, class_of_;  // class by class; by sample
  std::vector<double> sizes_;
};

// A Lc = scale A Y Y' H for rows of A that sum to zero, with Y one-hot: sums over classes in place of a
// product with n x n entries. Entries of one class are equal, so a row of the result has one per class.
class LabelProduct {
 public:
  LabelProduct(const int64_t* y, double scale, int64_t n) : classes_(y, n), scale_(scale) {}
  const LabelClasses& classes() const { return classes_; }

  // A row of M = A Lc.
  void multiply(const double* row, double* M) const {
    classes_.sums(row, M);
    center(M);
  }
  // A row of M Lc.
  void multiply_again(const double* M, double* out) const {
    for (int64_t c = 0; c < classes_.count(); ++c) out[c] = classes_.size(c) * M[c];
    center(out);
  }
  double squared_norm(const double* M) const {
    double sum = 0;
    for (int64_t c = 0; c < classes_.count(); ++c) sum += classes_.size(c) * M[c] * M[c];
    return sum;
  }
  // Row i of Lc, sample by sample.
  void fill(int64_t i, double* out) const {
    const int64_t n = classes_.samples();
    std::vector<double> M(classes_.count());
    for (int64_t c = 0; c < classes_.count(); ++c)  // of row i of H
      M[c] = (c == classes_.class_of(i) ? 1.0 : 0.0) - classes_.size(c) / static_cast<double>(n);
    center(M.data());
    for (int64_t j = 0; j < n; ++j) out[j] = M[classes_.class_of(j)];
  }

 private:
  // From the first class on, so that a single class gives zeros and not round-off.
  void center(double* sums) const {
    const double shift = sums[0];
    double mean = 0;
    for (int64_t c = 0; c < classes_.count(); ++c) {
      sums[c] -= shift;
      mean += classes_.size(c) * sums[c];
    }
    mean /= static_cast<double>(classes_.samples());
    for (int64_t c = 0; c < classes_.count(); ++c) sums[c] = scale_ * (sums[c] - mean);
  }

  LabelClasses classes_;
  double scale_;
};

}  // namespace bido
