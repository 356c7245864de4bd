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

#include "../common/planner.h"
#include "products.h"
#include "scratch.h"
#include "tasks.h"
#include "variable.h"

namespace bido {

constexpr int64_t kComputeAll = -(int64_t{1} << 60);

// Up to here columns are shared among tasks; a chunk and the sums of a task fit into the second-level cache.
constexpr int64_t kSmallRows = 384;
template <typename T>
constexpr int64_t chunk_of_few(int64_t n) {
  return (n <= 192 ? 4096 : 2048) / sizeof(T);
}
// Tasks per variable. Not by the number of threads: the sums would depend on it.
constexpr int64_t groups_of_few(int64_t n) { return n <= 192 ? 16 : 8; }

// Into `outs[v]`, [n, n]: the upper triangles of the inner products of `features[v]`.
template <typename T>
void inner_products_of_few_rows(const std::vector<Tensor>& features, const std::vector<T*>& outs) {
  struct Task {
    size_t variable;
    int64_t chunk_begin, chunk_end;
  };
  const auto& kernels = product_kernels<T>();
  const int64_t n = features[0].size(0), padded_rows = round_up(n, kernels.dot_rows);
  const int64_t width = chunk_of_few<T>(n);
  std::vector<Task> tasks;
  std::vector<size_t> first_task;  // of each variable, and one beyond
  int64_t widest = 1;
  for (size_t v = 0; v < features.size(); ++v) {
    const int64_t d = features[v].size(1), chunks = (d + width - 1) / width;
    widest = std::max(widest, std::min(d, width));
    const int64_t groups = std::min(groups_of_few(n), chunks);
    first_task.push_back(tasks.size());
    for (int64_t g = 0; g < groups; ++g) tasks.push_back({v, g * chunks / groups, (g + 1) * chunks / groups});
  }
  first_task.push_back(tasks.size());
  const auto count = static_cast<int64_t>(tasks.size());
  const Scratch<T> partial = make_scratch<T>(count * n * n);
  run_tasks(count, [&](Tasks& queue) {
    const int64_t stride = round_up(widest, kernels.dot_depth) + kSkew;
    const Scratch<T> chunk = make_scratch<T>(padded_rows * stride);
    std::fill(chunk.get() + n * stride, chunk.get() + padded_rows * stride, T(0));
    for (int64_t t = queue.take(), next = queue.take(); t >= 0; t = next, next = queue.take()) {
      const Tensor& x = features[tasks[t].variable];
      for (int64_t c = tasks[t].chunk_begin; c < tasks[t].chunk_end; ++c) {
        const int64_t begin = c * width, end = std::min(x.size(1), begin + width);
        const int64_t depth = round_up(end - begin, kernels.dot_depth);
        center_columns<T>(x, begin, end, chunk.get(), stride, depth);
        RowsAhead ahead{};
        if (c + 1 < tasks[t].chunk_end) {
          ahead = rows_ahead(x, 0, n, end, end + width);
        } else if (next >= 0) {
          const int64_t following = tasks[next].chunk_begin * width;
          ahead = rows_ahead(features[tasks[next].variable], 0, n, following, following + width);
        }
        kernels.dot_block(chunk.get(), n, chunk.get(), n, stride, depth, partial.get() + t * n * n, n, 0,
                          c > tasks[t].chunk_begin, ahead);
      }
    }
  });
  // Entries below the diagonal of a partial sum may be unset: only the others are added up.
  torch::stable::parallel_for(0, n, 64, [&](int64_t from, int64_t to) {
    for (size_t v = 0; v < features.size(); ++v) {
      for (int64_t i = from; i < to; ++i) {
        T* row = outs[v] + i * n;
        std::fill(row, row + n, T(0));
        for (size_t t = first_task[v]; t < first_task[v + 1]; ++t)
          for (int64_t j = i; j < n; ++j) row[j] += partial[(t * n + i) * n + j];
      }
    }
  });
}

// Tiles take narrower chunks: five rows of the left and of the right then fit into the first-level cache.
template <typename T>
constexpr int64_t kTileChunk = 2048 / sizeof(T);
// With all rows in tiles of one buffer, adding to the sums costs more than reading the rows from the second
// level does: fewer, longer chunks.
template <typename T>
constexpr int64_t kWholeChunk = 4096 / sizeof(T);
constexpr int64_t kLeftRows = 1024;      // rows that are centered at once, for all threads
constexpr int64_t kCenterColumns = 256;  // of a task that centers

static_assert(kPlannedFewRows == kSmallRows && kPlannedChunk == kTileChunk<float> * 4 &&
                  kPlannedWholeChunk == kWholeChunk<float> * 4,
              "the planner counts what these products take");

// Entries per row of a centered chunk of at most `width` columns of x.
template <typename T>
int64_t chunk_stride(const Tensor& x, int64_t width) {
  return round_up(std::min(x.size(1), width), product_kernels<T>().dot_depth) + kSkew;
}

// At most kLeftRows rows: while the tiles of one chunk are multiplied, the next chunk is centered.
template <typename T, typename Target>
void inner_products_of_whole_chunks(const Tensor& x, int64_t tile, int64_t tile_stride,
                                    const Target& target) {
  const auto& kernels = product_kernels<T>();
  const int64_t n = x.size(0), d = x.size(1), width = std::min(d, kWholeChunk<T>);
  const int64_t stride = chunk_stride<T>(x, width), entries = (n + kernels.dot_rows) * stride;
  const int64_t chunks = (d + width - 1) / width, centers = (width + kCenterColumns - 1) / kCenterColumns;
  const int64_t count = std::min<int64_t>(2, chunks);
  const Scratch<T> buffers = make_scratch<T>(count * entries);
  for (int64_t c = 0; c < count; ++c)  // tiles read whole steps of rows
    std::fill(buffers.get() + c * entries + n * stride, buffers.get() + (c + 1) * entries, T(0));
  const auto depth_of = [&](int64_t chunk) {
    return round_up(std::min(d - chunk * width, width), kernels.dot_depth);
  };
  const auto center = [&](int64_t chunk, int64_t part) {
    const int64_t offset = part * kCenterColumns, begin = chunk * width + offset;
    const int64_t end = std::min({d, (chunk + 1) * width, begin + kCenterColumns});
    if (begin >= end) return;
    const int64_t padded = std::min(depth_of(chunk) - offset, round_up(end - begin, kernels.dot_depth));
    center_columns<T>(x, begin, end, buffers.get() + chunk % 2 * entries + offset, stride, padded);
  };
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t a = 0; a < n; a += tile)
    for (int64_t b = a; b < n; b += tile) pairs.push_back({a, b});
  for (int64_t chunk = -1; chunk < chunks; ++chunk) {
    const int64_t before = chunk + 1 < chunks ? centers : 0;
    const auto products = static_cast<int64_t>(chunk < 0 ? 0 : pairs.size());
    const T* rows = buffers.get() + std::max<int64_t>(chunk, 0) % 2 * entries;
    run_tasks(before + products, [&](Tasks& tasks) {
      for (int64_t t = tasks.take(), next = tasks.take(); t >= 0; t = next, next = tasks.take()) {
        if (t < before) {
          center(chunk + 1, t);
          continue;
        }
        const auto [a, b] = pairs[t - before];
        RowsAhead ahead{};  // another thread may have centered them, on a core with other caches
        if (next >= 0) {
          const int64_t following = pairs[next - before].second;
          ahead = {reinterpret_cast<const char*>(rows + following * stride), std::min(n - following, tile),
                   stride * static_cast<int64_t>(sizeof(T)), width * static_cast<int64_t>(sizeof(T))};
        }
        kernels.dot_block(rows + a * stride, std::min(n - a, tile), rows + b * stride, std::min(n - b, tile),
                          stride, depth_of(chunk), target(a / tile, b / tile), tile_stride,
                          a == b ? 0 : kComputeAll, chunk > 0, ahead);
      }
    });
  }
}

// More rows: kLeftRows of them are centered for all threads, and each thread centers the tile of rows it
// multiplies them by, which then stays in its second-level cache.
template <typename T, typename Target>
void inner_products_of_row_blocks(const Tensor& x, int64_t tile, int64_t tile_stride, const Target& target) {
  const auto& kernels = product_kernels<T>();
  const int64_t n = x.size(0), d = x.size(1), width = std::min(d, kTileChunk<T>);
  const int64_t stride = chunk_stride<T>(x, kTileChunk<T>), block = std::max(tile, kLeftRows / tile * tile);
  const Scratch<T> left = make_scratch<T>((block + kernels.dot_rows) * stride);
  std::fill(left.get() + block * stride, left.get() + (block + kernels.dot_rows) * stride, T(0));
  const Scratch<T> means = make_scratch<T>(d);
  means_and_norms<T>(x, means.get(), nullptr);
  for (int64_t begin = 0; begin < d; begin += width) {
    const int64_t end = std::min(d, begin + width), depth = round_up(end - begin, kernels.dot_depth);
    for (int64_t i = 0; i < n; i += block) {
      const int64_t i_end = std::min(n, i + block);
      torch::stable::parallel_for(i, i_end, 16, [&](int64_t first, int64_t last) {
        subtract_means<T>(x, first, last, begin, end, means.get(), left.get() + (first - i) * stride, stride,
                          depth);
      });
      const int64_t columns = (n - i + tile - 1) / tile;
      run_tasks(columns, [&](Tasks& tasks) {
        const Scratch<T> right = make_scratch<T>((tile + kernels.dot_rows) * stride);
        std::fill(right.get(), right.get() + (tile + kernels.dot_rows) * stride, T(0));
        // From the last tile back: those that meet few tiles of the left come last, and keep no one waiting.
        int64_t next = tasks.take();
        while (next >= 0) {
          const int64_t b = i + (columns - 1 - next) * tile, b_end = std::min(n, b + tile);
          const T* rows = left.get() + (b - i) * stride;
          if (b >= i_end) {
            subtract_means<T>(x, b, b_end, begin, end, means.get(), right.get(), stride, depth);
            rows = right.get();
          }
          next = tasks.take();
          const int64_t following = i + (columns - 1 - next) * tile;
          RowsAhead ahead{};
          if (next >= 0 && following >= i_end)
            ahead = rows_ahead(x, following, std::min(n, following + tile), begin, end);
          for (int64_t a = i; a < std::min(i_end, b + 1); a += tile) {
            kernels.dot_block(left.get() + (a - i) * stride, std::min(i_end - a, tile), rows, b_end - b,
                              stride, depth, target(a / tile, b / tile), tile_stride,
                              a == b ? 0 : kComputeAll, begin > 0, a == i ? ahead : RowsAhead{});
          }
        }
      });
    }
  }
}

// Tile (I, J), I <= J in units of `tile` rows, is at `target(I, J)` with row stride `tile_stride`.
template <typename T, typename Target>
void inner_products_of_tiles(const Tensor& x, int64_t tile, int64_t tile_stride, const Target& target) {
  if (x.size(0) <= kLeftRows)
    inner_products_of_whole_chunks<T>(x, tile, tile_stride, target);
  else
    inner_products_of_row_blocks<T>(x, tile, tile_stride, target);
}

constexpr int64_t kSubRows = 80;  // rows of a task within one tile

// Rows I times rows J over all columns, into `out` with row stride `out_stride`; all of it.
template <typename T>
void inner_products_of_tile(const Tensor& x, const T* means, Block I, Block J, T* left, T* right, T* out,
                            int64_t out_stride) {
  const auto& kernels = product_kernels<T>();
  const int64_t d = x.size(1), width = std::min(d, kTileChunk<T>), stride = chunk_stride<T>(x, kTileChunk<T>);
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
  return (rows + product_kernels<T>().dot_rows) * chunk_stride<T>(x, kTileChunk<T>);
}

}  // namespace bido
