// SPDX-License-Identifier: Apache-2.0
//
// Inner products of centered rows, on or above the diagonal only. Three ways, by where the work is:
//   few rows:    long columns are shared among tasks, each with its own n x n sums (all variables at once);
//   kept tiles:  chunk by chunk of columns, tiles of a store accumulate;
//   one tile:    all columns of two row blocks, for streaming.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "products.h"
#include "scratch.h"
#include "variable.h"

namespace bido {

constexpr int64_t kSmallRows = 192;  // up to here columns are shared among tasks
template <typename T>
constexpr int64_t kChunk = 4096 / sizeof(T);  // columns of a centered chunk
constexpr int64_t kSkew = 16;  // extra entries per row, so that rows do not meet in one cache set
constexpr int64_t kComputeAll = -(int64_t{1} << 60);

// The number of tasks per variable does not depend on the number of threads: neither do the sums.
constexpr int64_t kGroups = 16;

// Into `outs[v]`, [n, n]: the upper triangles of the inner products of `features[v]`.
template <typename T>
void inner_products_of_few_rows(const std::vector<Tensor>& features, const std::vector<T*>& outs) {
  struct Task {
    size_t variable;
    int64_t chunk_begin, chunk_end;
  };
  const auto& kernels = product_kernels<T>();
  const int64_t n = features[0].size(0), padded_rows = round_up(n, kernels.dot_rows);
  std::vector<Task> tasks;
  int64_t widest = 1;
  for (size_t v = 0; v < features.size(); ++v) {
    const int64_t d = features[v].size(1), chunks = (d + kChunk<T> - 1) / kChunk<T>;
    widest = std::max(widest, std::min(d, kChunk<T>));
    const int64_t groups = std::min(kGroups, chunks);
    for (int64_t g = 0; g < groups; ++g) tasks.push_back({v, g * chunks / groups, (g + 1) * chunks / groups});
  }
  const auto count = static_cast<int64_t>(tasks.size());
  const Scratch<T> partial = make_scratch<T>(count * n * n);
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    const int64_t stride = round_up(widest, kernels.dot_depth) + kSkew;
    const Scratch<T> chunk = make_scratch<T>(padded_rows * stride);
    std::fill(chunk.get() + n * stride, chunk.get() + padded_rows * stride, T(0));
    for (int64_t t = first; t < last; ++t) {
      const Tensor& x = features[tasks[t].variable];
      for (int64_t c = tasks[t].chunk_begin; c < tasks[t].chunk_end; ++c) {
        const int64_t begin = c * kChunk<T>, end = std::min(x.size(1), begin + kChunk<T>);
        const int64_t depth = round_up(end - begin, kernels.dot_depth);
        center_columns<T>(x, begin, end, chunk.get(), stride, depth);
        const bool more = c + 1 < tasks[t].chunk_end;
        const RowsAhead ahead = more           ? rows_ahead(x, 0, n, end, end + kChunk<T>)
                                : t + 1 < last ? rows_ahead(features[tasks[t + 1].variable], 0, n,
                                                            tasks[t + 1].chunk_begin * kChunk<T>,
                                                            (tasks[t + 1].chunk_begin + 1) * kChunk<T>)
                                               : RowsAhead{};
        kernels.dot_block(chunk.get(), n, chunk.get(), n, stride, depth, partial.get() + t * n * n, n, 0,
                          c > tasks[t].chunk_begin, ahead);
      }
    }
  });
  // Entries below the diagonal of a partial sum may be unset: only the others are added up.
  for (auto* out : outs) std::fill(out, out + n * n, T(0));
  for (int64_t t = 0; t < count; ++t) {
    T* out = outs[tasks[t].variable];
    const T* sums = partial.get() + t * n * n;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = i; j < n; ++j) out[i * n + j] += sums[i * n + j];
  }
}

constexpr int64_t kWholeChunkRows = 1024;  // up to here a chunk of all rows is centered at once
constexpr int64_t kSuperRows = 256;        // beyond: rows of a chunk

// Tile (I, J), I <= J in units of `tile` rows, is at `target(I, J)` with row stride `tile_stride`.
template <typename T, typename Target>
void inner_products_of_tiles(const Tensor& x, int64_t tile, int64_t tile_stride, const Target& target) {
  struct Pair {
    int64_t row, column;
  };
  const auto& kernels = product_kernels<T>();
  const int64_t n = x.size(0), d = x.size(1);
  const int64_t super = n <= kWholeChunkRows ? round_up(n, tile) : std::max(tile, kSuperRows / tile * tile);
  const int64_t width = std::min(d, kChunk<T>), stride = round_up(width, kernels.dot_depth) + kSkew;
  const int64_t rows = super + kernels.dot_rows;  // tiles read whole steps of rows
  const Scratch<T> left = make_scratch<T>(rows * stride);
  const Scratch<T> right = make_scratch<T>(n <= super ? 1 : rows * stride);
  const Scratch<T> means = make_scratch<T>(d);
  std::fill(left.get(), left.get() + rows * stride, T(0));
  if (n > super) std::fill(right.get(), right.get() + rows * stride, T(0));
  means_and_norms<T>(x, means.get(), nullptr);
  const auto center = [&](int64_t row_begin, int64_t row_end, int64_t begin, int64_t end, T* out) {
    torch::stable::parallel_for(row_begin, row_end, 16, [&](int64_t first, int64_t last) {
      subtract_means<T>(x, first, last, begin, end, means.get(), out + (first - row_begin) * stride, stride,
                        round_up(end - begin, kernels.dot_depth));
    });
  };
  std::vector<Pair> pairs;
  for (int64_t begin = 0; begin < d; begin += width) {
    const int64_t end = std::min(d, begin + width), depth = round_up(end - begin, kernels.dot_depth);
    for (int64_t i = 0; i < n; i += super) {
      const int64_t i_end = std::min(n, i + super);
      center(i, i_end, begin, end, left.get());
      for (int64_t j = i; j < n; j += super) {
        const int64_t j_end = std::min(n, j + super);
        if (j > i) center(j, j_end, begin, end, right.get());
        const T* other = j > i ? right.get() : left.get();
        pairs.clear();
        for (int64_t a = i; a < i_end; a += tile)
          for (int64_t b = std::max(a, j); b < j_end; b += tile) pairs.push_back({a, b});
        torch::stable::parallel_for(0, static_cast<int64_t>(pairs.size()), 1, [&](int64_t from, int64_t to) {
          for (int64_t p = from; p < to; ++p) {
            const auto [a, b] = pairs[p];
            kernels.dot_block(left.get() + (a - i) * stride, std::min(n, a + tile) - a,
                              other + (b - j) * stride, std::min(n, b + tile) - b, stride, depth,
                              target(a / tile, b / tile), tile_stride, a == b ? 0 : kComputeAll, begin > 0,
                              {});
          }
        });
      }
    }
  }
}

constexpr int64_t kSubRows = 80;  // rows of a task within one tile

// Rows I times rows J over all columns, into `out` with row stride `out_stride`; all of it.
template <typename T>
void inner_products_of_tile(const Tensor& x, const T* means, Block I, Block J, T* left, T* right, T* out,
                            int64_t out_stride) {
  const auto& kernels = product_kernels<T>();
  const int64_t d = x.size(1), width = std::min(d, kChunk<T>);
  const int64_t stride = round_up(width, kernels.dot_depth) + kSkew;
  const bool diagonal = I.begin == J.begin;
  std::vector<std::pair<int64_t, int64_t>> tasks;
  for (int64_t a = 0; a < I.size(); a += kSubRows)
    for (int64_t b = diagonal ? a : 0; b < J.size(); b += kSubRows) tasks.push_back({a, b});
  for (int64_t begin = 0; begin < d; begin += width) {
    const int64_t end = std::min(d, begin + width), depth = round_up(end - begin, kernels.dot_depth);
    const auto center = [&](Block rows, T* target) {
      torch::stable::parallel_for(rows.begin, rows.end, 16, [&](int64_t first, int64_t last) {
        subtract_means<T>(x, first, last, begin, end, means, target + (first - rows.begin) * stride, stride,
                          depth);
      });
    };
    center(I, left);
    if (!diagonal) center(J, right);
    const T* other = diagonal ? left : right;
    torch::stable::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const auto [a, b] = tasks[t];
        kernels.dot_block(left + a * stride, std::min(I.size(), a + kSubRows) - a, other + b * stride,
                          std::min(J.size(), b + kSubRows) - b, stride, depth, out + a * out_stride + b,
                          out_stride, diagonal ? a - b : kComputeAll, begin > 0, {});
      }
    });
  }
}

// Entries of a scratch buffer for `rows` centered rows of x.
template <typename T>
int64_t chunk_entries(const Tensor& x, int64_t rows) {
  const auto& kernels = product_kernels<T>();
  return (rows + kernels.dot_rows) * (round_up(std::min(x.size(1), kChunk<T>), kernels.dot_depth) + kSkew);
}

}  // namespace bido
