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

#include <cstdint>

#include "products.h"

namespace bido {
namespace {

template <typename T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
};

// The sum of the lanes of a vector, by halves: log2 additions, which are vectors themselves.
template <typename T, int Bytes>
inline T add_lanes(typename VectorOf<T, Bytes>::type v) {
  constexpr int kWidth = Bytes / sizeof(T);
  if constexpr (kWidth == 2) {
    return v[0] + v[1];
  } else {
    typename VectorOf<T, Bytes / 2>::type low, high;
    if constexpr (kWidth == 16) {
      low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
      high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    } else if constexpr (kWidth == 8) {
      low = __builtin_shufflevector(v, v, 0, 1, 2, 3);
      high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    } else {
      low = __builtin_shufflevector(v, v, 0, 1);
      high = __builtin_shufflevector(v, v, 2, 3);
    }
    return add_lanes<T, Bytes / 2>(low + high);
  }
}

constexpr int64_t kRightRows = 80;  // rows of b that stay in the second-level cache

template <typename T, int Bytes, int R>
void dot_tile(const T* a, const T* b, int64_t stride, int64_t depth, T* sums) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int kWidth = Bytes / sizeof(T);
  V total[R][R] = {};
  for (int64_t k = 0; k < depth; k += kWidth) {
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
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < R; ++j) {
      sums[i * R + j] = add_lanes<T, Bytes>(total[i][j]);
    }
  }
}

template <typename T, int Bytes, int R>
void dot_block(const T* a, int64_t rows_a, const T* b, int64_t rows_b, int64_t stride, int64_t depth, T* c,
               int64_t c_stride, int64_t below, bool accumulate) {
  T sums[R * R];
  for (int64_t right = 0; right < rows_b; right += kRightRows) {
    const int64_t right_end = right + kRightRows < rows_b ? right + kRightRows : rows_b;
    for (int64_t i = 0; i < rows_a; i += R) {
      const int64_t height = rows_a - i < R ? rows_a - i : R;
      for (int64_t j = right; j < right_end; j += R) {
        if (i + below >= j + R) continue;  // wholly below the diagonal
        dot_tile<T, Bytes, R>(a + i * stride, b + j * stride, stride, depth, sums);
        const int64_t width = rows_b - j < R ? rows_b - j : R;
        for (int64_t s = 0; s < height; ++s) {
          T* row = c + (i + s) * c_stride + j;
          for (int64_t t = 0; t < width; ++t)
            row[t] = accumulate ? row[t] + sums[s * R + t] : sums[s * R + t];
        }
      }
    }
  }
}

template <typename T, int Bytes, int R, int S, bool kTransposed>
void panel_tile(const T* a, int64_t a_stride, const T* b, int64_t depth, T* c, int64_t c_stride,
                bool accumulate) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int kWidth = Bytes / sizeof(T);
  V total[R][S] = {};
  for (int64_t k = 0; k < depth; ++k) {
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
  for (int i = 0; i < R; ++i) {
    for (int s = 0; s < S; ++s) {
      V* target = reinterpret_cast<V*>(c + i * c_stride + s * kWidth);
      *target = accumulate ? *target + total[i][s] : total[i][s];
    }
  }
}

template <typename T, int Bytes, int R, int S>
void panel_block(const T* a, int64_t a_stride, bool a_transposed, const T* b, int64_t rows, int64_t depth,
                 int64_t strips, T* c, int64_t c_stride, bool accumulate) {
  constexpr int64_t kStrip = S * Bytes / sizeof(T);
  for (int64_t strip = 0; strip < strips; ++strip) {
    const T* right = b + strip * depth * kStrip;
    for (int64_t i = 0; i < rows; i += R) {
      T* target = c + i * c_stride + strip * kStrip;
      if (a_transposed) {
        panel_tile<T, Bytes, R, S, true>(a + i, a_stride, right, depth, target, c_stride, accumulate);
      } else {
        panel_tile<T, Bytes, R, S, false>(a + i * a_stride, a_stride, right, depth, target, c_stride,
                                          accumulate);
      }
    }
  }
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
