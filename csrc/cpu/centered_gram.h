// SPDX-License-Identifier: Apache-2.0
//
// H K H of a Gram matrix up to centering, row by row, in float64.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/stable.h"
#include "hsic_sums.h"
#include "vectorize.h"

namespace bido {

template <typename T>
BIDO_VECTORIZE void center_row(const T* row, double mean, const double* means, double total, double* out,
                               int64_t count) {
  for (int64_t j = 0; j < count; ++j) out[j] = static_cast<double>(row[j]) - mean - (means[j] - total);
}

// `given`: the user's own Gram matrix, which need not quite be symmetric; its symmetric part counts.
template <typename T>
class CenteredGram {
 public:
  CenteredGram(const T* gram, bool given, int64_t n) : gram_(gram), given_(given), n_(n), means_(n) {
    torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        means_[i] = (given ? row_sum(symmetric_row(i, 0, n).data(), n) : row_sum(gram + i * n, n)) /
                    static_cast<double>(n);
    });
    for (double mean : means_) total_ += mean / static_cast<double>(n);
  }

  // |H K H|_F^2, from that of the entries.
  double squared_norm(double of_entries) const {
    const double n = static_cast<double>(n_);
    double squares = 0;
    for (double mean : means_) squares += mean * mean;
    return std::max(0.0, of_entries - 2 * n * squares + n * n * total_ * total_);
  }

  // `count` entries of row i from j on.
  void fill(int64_t i, int64_t j, int64_t count, double* out) const {
    if (given_)
      center_row(symmetric_row(i, j, count).data(), means_[i], means_.data() + j, total_, out, count);
    else
      center_row(gram_ + i * n_ + j, means_[i], means_.data() + j, total_, out, count);
  }

 private:
  std::vector<double> symmetric_row(int64_t i, int64_t begin, int64_t count) const {
    std::vector<double> row(count);
    for (int64_t j = begin; j < begin + count; ++j)
      row[j - begin] = (static_cast<double>(gram_[i * n_ + j]) + static_cast<double>(gram_[j * n_ + i])) / 2;
    return row;
  }

  const T* gram_;
  bool given_;
  int64_t n_;
  std::vector<double> means_;
  double total_ = 0;
};

}  // namespace bido
