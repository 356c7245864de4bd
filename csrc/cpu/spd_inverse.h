// SPDX-License-Identifier: Apache-2.0
//
// The negative inverse of a symmetric positive definite matrix, in place, by the sweep operator: on and above
// the diagonal, without a search for pivots. A pivot that is not positive is reported.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
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

// The inverse of the Cholesky factor of a few rows, U^-1 with U'U = a and U upper triangular: rows of
// `inverse` and, transposed, of `transposed`. Only the upper half of a [n, n] is read, and it is overwritten.
template <typename T>
BIDO_VECTORIZE bool invert_factor(T* a, int64_t n, RowBuffer<T>& inverse, RowBuffer<T>& transposed) {
  bool positive = true;
  for (int64_t k = 0; k < n; ++k) {
    T* pivot = a + k * n;
    positive = positive && pivot[k] > 0;
    const T scale = 1 / std::sqrt(pivot[k]);
    for (int64_t j = k; j < n; ++j) pivot[j] *= scale;
    for (int64_t i = k + 1; i < n; ++i) {
      T* row = a + i * n;
      const T factor = pivot[i];
      for (int64_t j = i; j < n; ++j) row[j] -= factor * pivot[j];
    }
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    T* row = inverse.row(i);
    std::fill(row, row + n, T(0));
    row[i] = 1;
    for (int64_t k = i + 1; k < n; ++k) {
      const T factor = a[i * n + k];
      const T* below = inverse.row(k);
      for (int64_t j = k; j < n; ++j) row[j] -= factor * below[j];
    }
    const T scale = 1 / a[i * n + i];
    for (int64_t j = i; j < n; ++j) row[j] *= scale;
    for (int64_t j = 0; j < n; ++j) transposed.row(j)[i] = row[j];
  }
  return positive;
}

// Many rows: a tile of pivots at a time. With U'U the pivot block and B the columns of the pivots,
// W = B U^-1,
//   A_IJ -= W_I W_J',   A_IK = W_I U^-T,   A_KK = -U^-1 U^-T,
// which are products of rows, of the upper half only. Through W the error grows with the condition number as
// that of a Cholesky factorisation does; through the inverse of the block, B (U'U)^-1 B', with its square.
template <typename T>
bool sweep_blocks(T* a, int64_t n, int64_t stride) {
  const auto& kernels = product_kernels<T>();
  const int64_t tile = product_tile(n);
  bool positive = true;
  RowBuffer<T> inverse(tile, tile), transposed(tile, tile), left(n, tile), right(n, tile);
  std::vector<T> block(tile * tile);
  std::vector<std::pair<int64_t, int64_t>> tiles;
  const auto entry = [&](int64_t i, int64_t j) -> T& {
    return i < j ? a[i * stride + j] : a[j * stride + i];
  };
  for (int64_t k0 = 0; k0 < n; k0 += tile) {
    const int64_t k1 = std::min(n, k0 + tile), size = k1 - k0;
    const int64_t depth = round_up(size, kernels.dot_depth);
    for (int64_t i = 0; i < size; ++i)
      std::copy(a + (k0 + i) * stride + k0 + i, a + (k0 + i) * stride + k1, block.data() + i * size + i);
    positive = invert_factor(block.data(), size, inverse, transposed) && positive;
    for (int64_t i = 0; i < size; ++i) {
      std::fill(inverse.row(i) + size, inverse.row(i) + depth, T(0));
      std::fill(transposed.row(i) + size, transposed.row(i) + depth, T(0));
    }
    kernels.dot_block(inverse.row(0), size, inverse.row(0), size, inverse.stride(), depth, block.data(), size,
                      kComputeAll, false, {});
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = i; j < size; ++j) a[(k0 + i) * stride + k0 + j] = -block[i * size + j];
    run_tasks((n + tile - 1) / tile, [&](Tasks& tasks) {
      for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
        const int64_t j0 = t * tile, j1 = std::min(n, j0 + tile);
        if (j0 == k0) continue;
        for (int64_t j = j0; j < j1; ++j) {
          for (int64_t k = 0; k < size; ++k) left.row(j)[k] = entry(j, k0 + k);
          std::fill(left.row(j) + size, left.row(j) + depth, T(0));
          std::fill(right.row(j) + size, right.row(j) + depth, T(0));
        }
        kernels.dot_block(left.row(j0), j1 - j0, transposed.row(0), size, left.stride(), depth, right.row(j0),
                          right.stride(), kComputeAll, false, {});
        kernels.dot_block(right.row(j0), j1 - j0, inverse.row(0), size, right.stride(), depth, left.row(j0),
                          left.stride(), kComputeAll, false, {});
        for (int64_t j = j0; j < j1; ++j) {
          for (int64_t k = 0; k < size; ++k) {
            entry(j, k0 + k) = left.row(j)[k];
            left.row(j)[k] = -right.row(j)[k];
          }
        }
      }
    });
    tiles.clear();
    for (int64_t i = 0; i < n; i += tile)
      for (int64_t j = i; j < n; j += tile)
        if (i != k0 && j != k0) tiles.push_back({i, j});
    run_tasks(static_cast<int64_t>(tiles.size()), [&](Tasks& tasks) {
      for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
        const auto [i, j] = tiles[t];
        kernels.dot_block(left.row(i), std::min(tile, n - i), right.row(j), std::min(tile, n - j),
                          left.stride(), depth, a + i * stride + j, stride, i == j ? 0 : kComputeAll, true,
                          {});
      }
    });
  }
  return positive;
}

}  // namespace bido
