// SPDX-License-Identifier: Apache-2.0
//
// Inner products of the rows of two buffers, shared among the threads: L R', or its upper half; and <L, R>.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "hsic_sums.h"
#include "inner_products.h"

namespace bido {

// A buffer of `rows` rows of `depth` values for products: rows do not meet in one cache set, and what the
// products read beyond the rows and columns is zero.
template <typename T>
class RowBuffer {
 public:
  RowBuffer(int64_t rows, int64_t depth)
      : rows_(rows),
        depth_(round_up(depth, product_kernels<T>().dot_depth)),
        stride_(depth_ + kSkew),
        data_(make_scratch<T>((rows + product_kernels<T>().dot_rows) * stride_)) {
    std::fill_n(row(rows), product_kernels<T>().dot_rows * stride_, T(0));
    for (int64_t i = 0; i < rows; ++i) std::fill(row(i) + depth, row(i) + stride_, T(0));
  }
  T* row(int64_t i) { return data_.get() + i * stride_; }
  const T* row(int64_t i) const { return data_.get() + i * stride_; }
  int64_t rows() const { return rows_; }
  int64_t depth() const { return depth_; }  // whole steps of the products
  int64_t stride() const { return stride_; }

 private:
  int64_t rows_, depth_, stride_;
  Scratch<T> data_;
};

// Rows of a task for n of them: whole steps of every instruction set, and enough tasks for the threads.
inline int64_t product_tile(int64_t n) { return n <= 512 ? 60 : 120; }

// out = L R', rows of `out` `out_stride` apart; `upper`: only tiles on or above the diagonal, and of those on
// it only the upper half.
template <typename T>
void multiply_rows(const RowBuffer<T>& left, const RowBuffer<T>& right, T* out, int64_t out_stride,
                   bool upper) {
  const auto& kernels = product_kernels<T>();
  const int64_t tile = product_tile(left.rows());
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t i = 0; i < left.rows(); i += tile)
    for (int64_t j = upper ? i : 0; j < right.rows(); j += tile) tiles.push_back({i, j});
  run_tasks(static_cast<int64_t>(tiles.size()), [&](Tasks& tasks) {
    for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
      const auto [i, j] = tiles[t];
      for (int64_t k = 0; k < left.depth(); k += kWholeChunk<T>)
        kernels.dot_block(left.row(i) + k, std::min(tile, left.rows() - i), right.row(j) + k,
                          std::min(tile, right.rows() - j), left.stride(),
                          std::min(kWholeChunk<T>, left.depth() - k), out + i * out_stride + j, out_stride,
                          upper && i == j ? 0 : kComputeAll, k > 0, {});
    }
  });
}

// <a, b> of two [n, n] matrices with rows `stride` apart: blocks of rows side by side, added up in order.
inline double inner_product(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t n) {
  constexpr int64_t kRows = 64;
  const int64_t blocks = (n + kRows - 1) / kRows;
  std::vector<double> sums(blocks);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first * kRows; i < std::min(n, last * kRows); ++i)
      sums[i / kRows] += row_product(a + i * a_stride, b + i * b_stride, n);
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace bido
