// SPDX-License-Identifier: Apache-2.0
//
// What the kernels of hsic share: entries of the Gram matrices of a group, wherever they come from, and the
// constants of the estimators.
#pragma once

#include "features.cuh"

namespace bido {

constexpr int kMostVariables = 64, kMostPairs = 64;

// Rows row_begin .., columns column_begin .. of the matrices of a group. The features' and the user's own
// matrices lie in a stack of panels, the labels are compared where they are needed.
struct Entries {
  const float* panels;
  int64_t slot_stride, row_stride;
  const int64_t* labels;  // of the variable whose slot is -1
  const double* label_scale;
  int64_t n, row_begin, rows, column_begin, columns;
};

__device__ inline double gram_at(const Entries& e, int slot, int64_t i, int64_t j) {
  if (slot >= 0) return static_cast<double>(e.panels[slot * e.slot_stride + i * e.row_stride + j]);
  return e.labels[e.row_begin + i] == e.labels[e.column_begin + j] ? *e.label_scale : 0.0;
}

// value = scale (sum K o L + pair k'l + total (1'k)(1'l)); Gretton 2005, or Song 2012, equation 5.
struct Estimator {
  double scale, pair, total;
};

BIDO_HOST_DEVICE inline Estimator estimator(int64_t samples, bool unbiased) {
  const auto n = static_cast<double>(samples);
  if (unbiased) return {1 / (n * (n - 3)), -2 / (n - 2), 1 / ((n - 1) * (n - 2))};
  return {1 / ((n - 1) * (n - 1)), -2 / n, 1 / (n * n)};
}

// Of the unbiased estimator, which leaves out the diagonal: what is left are small K themselves.
constexpr double kUnbiasedMargin = 10;

// Whether K - 1 does not hold the digits of K, from the row sums: in more rows than are outliers. Of equal
// rows the sums say nothing, and they have no part in a gradient. By a block; the same in every thread.
__device__ inline bool rows_are_lost(KernelKind kind, const double* sums, int64_t n, const double* own,
                                     double* scratch, double margin = 1) {
  const double alpha = alpha_of(kind, own);
  double lost = 0;
  for (int64_t i = threadIdx.x; n > 1 && i < n; i += kBlock)
    lost += holds_weights(kind, 1 + sums[i] / static_cast<double>(n - 1), alpha, margin) ? 0 : 1;
  return 8 * block_sum(lost, scratch) > static_cast<double>(n);
}

}  // namespace bido
