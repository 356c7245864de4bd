// SPDX-License-Identifier: Apache-2.0
//
// Labels as classes 0, 1, ..., whatever integers they are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace bido {

class LabelClasses {
 public:
  LabelClasses(const int64_t* y, int64_t n) : sorted_(n), class_of_(n) {
    std::iota(sorted_.begin(), sorted_.end(), int64_t{0});
    std::stable_sort(sorted_.begin(), sorted_.end(), [&](int64_t a, int64_t b) { return y[a] < y[b]; });
    for (int64_t k = 0; k < n; ++k) {
      if (k == 0 || y[sorted_[k]] != y[sorted_[k - 1]]) begins_.push_back(k);
      class_of_[sorted_[k]] = static_cast<int64_t>(begins_.size()) - 1;
    }
    begins_.push_back(n);
  }
  int64_t samples() const { return begins_.back(); }
  int64_t count() const { return static_cast<int64_t>(begins_.size()) - 1; }
  int64_t class_of(int64_t sample) const { return class_of_[sample]; }
  double size(int64_t c) const { return static_cast<double>(begins_[c + 1] - begins_[c]); }
  double size_of_class_of(int64_t sample) const { return size(class_of_[sample]); }
  // |H K H|_F^2 of K = [y_i = y_j].
  double squared_norm() const {
    const double n = static_cast<double>(samples());
    double squares = 0, cubes = 0;
    for (int64_t c = 0; c < count(); ++c) {
      squares += size(c) * size(c);
      cubes += size(c) * size(c) * size(c);
    }
    return std::max(0.0, squares - 2 * cubes / n + squares * squares / (n * n));
  }
  const int64_t* begin(int64_t c) const { return sorted_.data() + begins_[c]; }  // its samples, in order
  const int64_t* end(int64_t c) const { return sorted_.data() + begins_[c + 1]; }

 private:
  std::vector<int64_t> sorted_, class_of_, begins_;  // class by class; by sample; by class
};

}  // namespace bido
