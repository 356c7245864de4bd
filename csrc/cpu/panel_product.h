// SPDX-License-Identifier: Apache-2.0
//
// Weights times features: the one product of a backward.
#pragma once

#include <algorithm>

#include "feature_rows.h"
#include "products.h"
#include "scratch.h"

namespace bido {

constexpr int64_t kPanelRows = 256;    // rows of a panel of weights in one task
constexpr int64_t kProductDepth = 128;  // rows of features in a strip: it stays in the first-level cache
constexpr int64_t kStrips = 8;          // per task

// Rows of a panel buffer that holds `rows` rows of weights.
template <typename T>
int64_t panel_buffer_rows(int64_t rows) {
  return round_up(rows, product_kernels<T>().panel_rows);
}

// Rows out_row.. of `out` (+)= panel [rows, x_end - x_begin] times rows x_begin..x_end of x. The panel's
// buffer has panel_buffer_rows(rows) rows; `out` has contiguous rows in any floating dtype.
template <typename T>
void multiply_panel(const T* panel, int64_t panel_stride, int64_t rows, const Tensor& x, int64_t x_begin,
                    int64_t x_end, const Tensor& out, int64_t out_row, bool accumulate) {
  const auto& kernels = product_kernels<T>();
  const int64_t d = x.size(1), width = kStrips * kernels.strip;
  const int64_t chunks = (d + width - 1) / width, blocks = (rows + kPanelRows - 1) / kPanelRows;
  torch::stable::parallel_for(0, chunks * blocks, 1, [&](int64_t first, int64_t last) {
    const Scratch<T> strips = make_scratch<T>(kProductDepth * width);
    const Scratch<T> sums = make_scratch<T>(panel_buffer_rows<T>(std::min(rows, kPanelRows)) * width);
    for (int64_t t = first; t < last; ++t) {
      const int64_t begin = t / blocks * width, end = std::min(d, begin + width);
      const int64_t row = t % blocks * kPanelRows, count = std::min(rows - row, kPanelRows);
      const int64_t n_strips = (end - begin + kernels.strip - 1) / kernels.strip;
      for (int64_t k = x_begin; k < x_end; k += kProductDepth) {
        const int64_t k_end = std::min(x_end, k + kProductDepth);
        pack_strips<T>(x, k, k_end, begin, end, kernels.strip, strips.get());
        kernels.panel_block(panel + row * panel_stride + (k - x_begin), panel_stride, strips.get(),
                            round_up(count, kernels.panel_rows), k_end - k, n_strips, sums.get(), width,
                            k > x_begin);
      }
      store_rows<T>(sums.get(), width, out, out_row + row, count, begin, end, accumulate);
    }
  });
}

}  // namespace bido
