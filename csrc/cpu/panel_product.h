// SPDX-License-Identifier: Apache-2.0
//
// Weights times features: the one product of a backward.
#pragma once

#include <algorithm>
#include <numeric>

#include "feature_rows.h"
#include "products.h"
#include "scratch.h"

namespace bido {

constexpr int64_t kPanelRows = 256;     // rows of a panel of weights in one task
constexpr int64_t kProductDepth = 128;  // rows of features in a strip: it stays in the first-level cache
constexpr int64_t kStrips = 12;         // per task at most

// Rows of a panel buffer that holds `rows` rows of weights.
template <typename T>
int64_t panel_buffer_rows(int64_t rows) {
  return round_up(rows, product_kernels<T>().panel_rows);
}

// Where a stretch of a panel lies: from a given row and depth on, `depth` entries deep. Transposed: the
// buffer holds it column by column.
template <typename T>
struct PanelPart {
  const T* data;
  int64_t stride;
  bool transposed;
  int64_t depth;
};

// Rows out_row.. of `out` (+)= panel [rows, depth] times rows x_begin.. of x less row 0. The panel is given
// in segments of `segment` rows: part(row, k) is the stretch of the segment that begins at `row`, from depth
// k on. Its buffers are readable up to whole steps of rows. `out` has contiguous rows in any floating dtype.
template <typename T, typename Part>
void multiply_panel(int64_t rows, int64_t segment, int64_t depth, const Part& part, const Tensor& x,
                    int64_t x_begin, const Tensor& out, int64_t out_row, bool accumulate) {
  const auto& kernels = product_kernels<T>();
  const int64_t d = x.size(1), strips_of_row = (d + kernels.strip - 1) / kernels.strip;
  const int64_t padded = panel_buffer_rows<T>(segment), group = std::max<int64_t>(1, kPanelRows / segment);
  const int64_t step = group * segment, blocks = (rows + step - 1) / step;
  // Chunks of columns of nearly the same width, as many for every thread. How the columns are cut does not
  // change their sums.
  const int64_t threads = torch::stable::get_num_threads(), share = threads / std::gcd(blocks, threads);
  const int64_t most = std::max<int64_t>(1, kStrips * kPanelRows / std::max(kPanelRows, step));
  const int64_t chunks = std::min(strips_of_row, round_up((strips_of_row + most - 1) / most, share));
  const int64_t width = (strips_of_row + chunks - 1) / chunks * kernels.strip;
  const auto column = [&](int64_t chunk) {
    return std::min(d, chunk * strips_of_row / chunks * kernels.strip);
  };
  torch::stable::parallel_for(0, chunks * blocks, 1, [&](int64_t first, int64_t last) {
    const Scratch<T> strips = make_scratch<T>(kProductDepth * width);
    const Scratch<T> sums = make_scratch<T>(group * padded * width);
    for (int64_t t = first; t < last; ++t) {
      const int64_t begin = column(t / blocks), end = column(t / blocks + 1);
      const int64_t row = t % blocks * step, row_end = std::min(rows, row + step);
      const int64_t n_strips = (end - begin + kernels.strip - 1) / kernels.strip;
      for (int64_t k = 0, taken = 0; k < depth; k += taken) {
        taken = std::min({kProductDepth, depth - k, part(row, k).depth});
        pack_strips<T>(x, x_begin + k, x_begin + k + taken, begin, end, kernels.strip, strips.get());
        RowsAhead ahead{};
        if (k + taken < depth) {
          ahead = rows_ahead(x, x_begin + k + taken, x_begin + std::min(depth, k + taken + kProductDepth),
                             begin, end);
        } else if (t + 1 < last) {
          const int64_t next = (t + 1) / blocks;
          ahead = rows_ahead(x, x_begin, x_begin + std::min(depth, kProductDepth), column(next),
                             column(next + 1));
        }
        for (int64_t i = row, s = 0; i < row_end; i += segment, ++s) {
          const PanelPart<T> a = part(i, k);
          kernels.panel_block(a.data, a.stride, a.transposed, strips.get(),
                              panel_buffer_rows<T>(std::min(segment, row_end - i)), taken, n_strips,
                              sums.get() + s * padded * width, width, k > 0, i == row ? ahead : RowsAhead{});
        }
      }
      for (int64_t i = row, s = 0; i < row_end; i += segment, ++s)
        store_rows<T>(sums.get() + s * padded * width, width, out, out_row + i,
                      std::min(segment, row_end - i), begin, end, accumulate);
    }
  });
}

// The same for a panel in one row-major buffer of panel_buffer_rows(rows) rows.
template <typename T>
void multiply_panel(const T* panel, int64_t stride, int64_t rows, int64_t depth, const Tensor& x,
                    const Tensor& out, int64_t out_row) {
  const auto part = [&](int64_t row, int64_t k) {
    return PanelPart<T>{panel + row * stride + k, stride, false, depth - k};
  };
  multiply_panel<T>(rows, rows, depth, part, x, 0, out, out_row, false);
}

}  // namespace bido
