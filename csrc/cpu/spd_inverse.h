// SPDX-License-Identifier: Apache-2.0
//
// The negative inverse of a symmetric positive definite matrix, in place, by the sweep operator: on and above
// the diagonal. No pivots are searched: none are needed. A pivot that is not positive is reported.
#pragma once

#include <algorithm>
#include <vector>

#include "row_products.h"
#include "vectorize.h"

namespace bido {

// A few rows, on the calling thread. What lies below the diagonal never counts; some of it is computed, to
// keep vectors whole. `column` holds n entries.
template <typename T>
BIDO_VECTORIZE bool sweep(T* a, T* column, int64_t n) {
  bool positive = true;
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t j = 0; j < k; ++j) column[j] = a[j * n + k];
    for (int64_t j = k; j < n; ++j) column[j] = a[k * n + j];
    const T pivot = column[k], p = 1 / pivot;
    positive = positive && pivot > 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i == k) continue;
      T* row = a + i * n;
      const T factor = column[i] * p;
      for (int64_t j = i / kLanes * kLanes; j < n; ++j) row[j] -= factor * column[j];
      (i < k ? row[k] : a[k * n + i]) = factor;
    }
    a[k * n + k] = -p;
  }
  return positive;
}

// Many rows: a tile of pivots at a time. With D the swept pivot block and B the columns of the pivots,
//   A_IJ += (B D)_I B_J',   A_IK = -(B D)_I,   A_KK = D,
// which are products of rows, of the upper half only.
inline bool sweep_blocks(double* a, int64_t n, int64_t stride) {
  const auto& kernels = product_kernels<double>();
  const int64_t tile = product_tile(n);
  bool positive = true;
  RowBuffer<double> pivots(tile, tile), columns(n, tile), products(n, tile);
  std::vector<double> block(tile * tile), column(tile);
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t k0 = 0; k0 < n; k0 += tile) {
    const int64_t k1 = std::min(n, k0 + tile), size = k1 - k0;
    const int64_t depth = round_up(size, kernels.dot_depth);
    for (int64_t i = 0; i < size; ++i)
      std::copy(a + (k0 + i) * stride + k0, a + (k0 + i) * stride + k1, block.data() + i * size);
    positive = sweep(block.data(), column.data(), size) && positive;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) {
        a[(k0 + i) * stride + k0 + j] = block[i * size + j];
        pivots.row(i)[j] = pivots.row(j)[i] = block[i * size + j];
      }
      std::fill(pivots.row(i) + size, pivots.row(i) + depth, 0.0);
    }
    tiles.clear();
    run_tasks((n + tile - 1) / tile, [&](Tasks& tasks) {
      for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
        const int64_t j0 = t * tile, j1 = std::min(n, j0 + tile);
        if (j0 == k0) continue;
        const auto entry = [&](int64_t j, int64_t k) -> double& {
          return j < k ? a[j * stride + k] : a[k * stride + j];
        };
        for (int64_t j = j0; j < j1; ++j) {
          for (int64_t k = 0; k < size; ++k) columns.row(j)[k] = entry(j, k0 + k);
          std::fill(columns.row(j) + size, columns.row(j) + depth, 0.0);
          std::fill(products.row(j) + size, products.row(j) + depth, 0.0);
        }
        kernels.dot_block(columns.row(j0), j1 - j0, pivots.row(0), size, columns.stride(), depth,
                          products.row(j0), products.stride(), kComputeAll, false, {});
        for (int64_t j = j0; j < j1; ++j)
          for (int64_t k = 0; k < size; ++k) entry(j, k0 + k) = -products.row(j)[k];
      }
    });
    for (int64_t i = 0; i < n; i += tile)
      for (int64_t j = i; j < n; j += tile)
        if (i != k0 && j != k0) tiles.push_back({i, j});
    run_tasks(static_cast<int64_t>(tiles.size()), [&](Tasks& tasks) {
      for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
        const auto [i, j] = tiles[t];
        kernels.dot_block(products.row(i), std::min(tile, n - i), columns.row(j), std::min(tile, n - j),
                          columns.stride(), depth, a + i * stride + j, stride, i == j ? 0 : kComputeAll, true,
                          {});
      }
    });
  }
  return positive;
}

}  // namespace bido
