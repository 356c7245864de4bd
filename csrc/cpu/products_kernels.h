// SPDX-License-Identifier: Apache-2.0
//
// Bodies of products.h, included by one translation unit per instruction set, each compiled with its own
// flags: nothing here may be an inline function that the linker could share between them.
//
// dot_block: both operands are rows of centered features, so a tile of R x R inner products keeps R * R
// vectors of partial sums along the columns and adds up their lanes once: no packing, no transposition.
// panel_block: weights times features; a strip of the features stays in the first-level cache while all rows
// of the panel pass over it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "products.h"

namespace bido {
namespace {

template <typename T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
};

// Vector a and vector b in segments of W lanes, one per value: the two halves of each segment are added.
template <typename T, int Bytes, int W, std::size_t... Lane>
inline typename VectorOf<T, Bytes>::type add_halves(typename VectorOf<T, Bytes>::type a,
                                                    typename VectorOf<T, Bytes>::type b,
                                                    std::index_sequence<Lane...>) {
  return __builtin_shufflevector(a, b, (Lane / (W / 2) * W + Lane % (W / 2))...) +
         __builtin_shufflevector(a, b, (Lane / (W / 2) * W + Lane % (W / 2) + W / 2)...);
}

// The sums of the lanes of `Count` vectors, of which the first `Given` are there, in one vector: a tree in
// which all of them share the additions. Lanes are added by halves.
template <typename T, int Bytes, int Count, int Given>
inline typename VectorOf<T, Bytes>::type add_lanes(const typename VectorOf<T, Bytes>::type* v) {
  constexpr int kWidth = Bytes / sizeof(T), kHalf = Count / 2;
  if constexpr (Given <= 0) {
    return typename VectorOf<T, Bytes>::type{};
  } else if constexpr (Count == 1) {
    return v[0];
  } else {
    return add_halves<T, Bytes, kWidth / kHalf>(add_lanes<T, Bytes, kHalf, Given>(v),
                                                add_lanes<T, Bytes, kHalf, Given - kHalf>(v + kHalf),
                                                std::make_index_sequence<kWidth>());
  }
}

// The same for any number of vectors, into `sums`, which has room for whole vectors.
template <typename T, int Bytes, int Given>
inline void store_sums(const typename VectorOf<T, Bytes>::type* v, T* sums) {
  constexpr int kWidth = Bytes / sizeof(T);
  if constexpr (Given > 0) {
    *reinterpret_cast<typename VectorOf<T, Bytes>::type*>(sums) = add_lanes<T, Bytes, kWidth, Given>(v);
    store_sums<T, Bytes, Given - kWidth>(v + kWidth, sums + kWidth);
  }
}

constexpr int64_t kRightRows = 80;  // rows of b that stay in the second-level cache, at most

// One row ahead per tile, spread over the `count` steps of its loop; a hint, which may leave lines out.
class NextRow {
 public:
  NextRow(const RowsAhead& ahead, int64_t count)
      : row_(ahead.data),
        stride_(ahead.stride),
        step_(count > 0 ? (ahead.width + count - 1) / count : 0),
        left_(ahead.data != nullptr ? ahead.rows : 0) {}
  bool any() const { return left_ > 0; }
  const char* row() const { return row_; }
  int64_t step() const { return step_; }
  void advance() {
    row_ += stride_;
    --left_;
  }

 private:
  const char* row_;
  int64_t stride_, step_, left_;
};

template <typename T, int Bytes, int R, bool kAhead>
void dot_tile(const T* a, const T* b, int64_t stride, int64_t depth, T* sums, const char* ahead,
              int64_t step) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int kWidth = Bytes / sizeof(T);
  V total[R][R] = {};
  for (int64_t k = 0; k < depth; k += kWidth) {
    if constexpr (kAhead) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += step;
    }
    V right[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) right[j] = *reinterpret_cast<const V*>(b + j * stride + k);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const V left = *reinterpret_cast<const V*>(a + i * stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) total[i][j] += left * right[j];
    }
  }
  store_sums<T, Bytes, R * R>(&total[0][0], sums);
}

template <typename T, int Bytes, int R>
void dot_block(const T* a, int64_t rows_a, const T* b, int64_t rows_b, int64_t stride, int64_t depth, T* c,
               int64_t c_stride, int64_t below, bool accumulate, const RowsAhead& ahead) {
  constexpr int64_t kWidth = Bytes / sizeof(T);
  T sums[(R * R + kWidth - 1) / kWidth * kWidth];
  NextRow next(ahead, depth / kWidth);
  // Whole tiles, or the last tile of a block would begin between two and read past the padded rows.
  constexpr int64_t kRight = kRightRows / R * R;
  for (int64_t right = 0; right < rows_b; right += kRight) {
    const int64_t right_end = right + kRight < rows_b ? right + kRight : rows_b;
    for (int64_t i = 0; i < rows_a; i += R) {
      const int64_t height = rows_a - i < R ? rows_a - i : R;
      for (int64_t j = right; j < right_end; j += R) {
        if (i + below >= j + R) continue;  // wholly below the diagonal
        const T *left = a + i * stride, *other = b + j * stride;
        if (next.any()) {
          dot_tile<T, Bytes, R, true>(left, other, stride, depth, sums, next.row(), next.step());
          next.advance();
        } else {
          dot_tile<T, Bytes, R, false>(left, other, stride, depth, sums, nullptr, 0);
        }
        const int64_t width = rows_b - j < R ? rows_b - j : R;
        if (height == R && width == R) {
#pragma GCC unroll 8
          for (int s = 0; s < R; ++s) {
            T* row = c + (i + s) * c_stride + j;
#pragma GCC unroll 8
            for (int t = 0; t < R; ++t) row[t] = accumulate ? row[t] + sums[s * R + t] : sums[s * R + t];
          }
          continue;
        }
        for (int64_t s = 0; s < height; ++s) {
          T* row = c + (i + s) * c_stride + j;
          for (int64_t t = 0; t < width; ++t)
            row[t] = accumulate ? row[t] + sums[s * R + t] : sums[s * R + t];
        }
      }
    }
  }
}

template <typename T, int Bytes, int R, int S, bool kTransposed, bool kAhead>
void panel_tile(const T* a, int64_t a_stride, const T* b, int64_t depth, T* c, int64_t c_stride,
                bool accumulate, const char* ahead, int64_t step) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int kWidth = Bytes / sizeof(T);
  V total[R][S] = {};
  for (int64_t k = 0; k < depth; ++k) {
    if constexpr (kAhead) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += step;
    }
    V right[S];
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) right[s] = *reinterpret_cast<const V*>(b + (k * S + s) * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const T left = kTransposed ? a[k * a_stride + i] : a[i * a_stride + k];
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) total[i][s] += left * right[s];
    }
  }
  // Unrolled, or the sums would go through memory to get an index.
  if (accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) total[i][s] += *reinterpret_cast<const V*>(c + i * c_stride + s * kWidth);
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) *reinterpret_cast<V*>(c + i * c_stride + s * kWidth) = total[i][s];
}

template <typename T, int Bytes, int R, int S, bool kTransposed>
void panel_rows(const T* a, int64_t a_stride, const T* b, int64_t rows, int64_t depth, int64_t strips, T* c,
                int64_t c_stride, bool accumulate, const RowsAhead& ahead) {
  constexpr int64_t kStrip = S * Bytes / sizeof(T);
  NextRow next(ahead, depth);
  for (int64_t strip = 0; strip < strips; ++strip) {
    const T* right = b + strip * depth * kStrip;
    for (int64_t i = 0; i < rows; i += R) {
      const T* left = kTransposed ? a + i : a + i * a_stride;
      T* target = c + i * c_stride + strip * kStrip;
      if (next.any()) {
        panel_tile<T, Bytes, R, S, kTransposed, true>(left, a_stride, right, depth, target, c_stride,
                                                      accumulate, next.row(), next.step());
        next.advance();
      } else {
        panel_tile<T, Bytes, R, S, kTransposed, false>(left, a_stride, right, depth, target, c_stride,
                                                       accumulate, nullptr, 0);
      }
    }
  }
}

template <typename T, int Bytes, int R, int S>
void panel_block(const T* a, int64_t a_stride, bool a_transposed, const T* b, int64_t rows, int64_t depth,
                 int64_t strips, T* c, int64_t c_stride, bool accumulate, const RowsAhead& ahead) {
  const auto run = a_transposed ? &panel_rows<T, Bytes, R, S, true> : &panel_rows<T, Bytes, R, S, false>;
  run(a, a_stride, b, rows, depth, strips, c, c_stride, accumulate, ahead);
}

template <typename T, int Bytes, int Dot, int Rows, int Strip>
constexpr ProductKernels<T> make_kernels(const char* isa) {
  return {isa,
          Dot,
          Bytes / static_cast<int64_t>(sizeof(T)),
          Rows,
          Strip * Bytes / static_cast<int64_t>(sizeof(T)),
          &dot_block<T, Bytes, Dot>,
          &panel_block<T, Bytes, Rows, Strip>};
}

}  // namespace
}  // namespace bido
