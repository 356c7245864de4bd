// SPDX-License-Identifier: Apache-2.0
//
// Reading features of any floating dtype into buffers of the accumulation dtype, chunk by chunk of columns,
// and writing gradients back. The features cross memory once, and no copy of their size is made.
//
// Column means are subtracted on the way to inner products: distances do not change, but their digits do,
// |x_i|^2 + |x_j|^2 - 2<x_i, x_j> cancels far less when the common offset is gone. Means are row 0 and the
// mean of what the rows have beyond it: a sum of offsets would lose the digits again.
// Products of weights whose rows sum to zero take the features less row 0: the sum is zero up to round-off
// only, and a common offset would multiply that.
#pragma once

#include "../common/stable.h"
#include "products.h"

namespace bido {

// x itself where its columns have stride one, else a contiguous copy.
Tensor with_dense_columns(const Tensor& x);

// Columns begin..end (cut off at the last) of rows row_begin..row_end of x, for a product to fetch ahead.
RowsAhead rows_ahead(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end);

// Columns begin..end of all rows of x minus their means, into `out` (row stride `stride`); columns up to
// `padded` are zeroed. x: [n, d] of any floating dtype with column stride one. On the calling thread.
template <typename T>
void center_columns(const Tensor& x, int64_t begin, int64_t end, T* out, int64_t stride, int64_t padded);

// The same for rows row_begin..row_end, given the means of all columns.
template <typename T>
void subtract_means(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                    const T* means, T* out, int64_t stride, int64_t padded);

// Column means of x into `means` [d] and, unless null, squared norms of the rows of x minus those, into
// `norms` [n].
template <typename T>
void means_and_norms(const Tensor& x, T* means, T* norms);

// Rows row_begin..row_end and columns begin..end of x less its row 0, in strips of `strip` columns,
// [strips][rows][strip]; columns beyond `end` are zero.
template <typename T>
void pack_strips(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                 int64_t strip, T* out);

// `count` rows of `source` (row stride `stride`) to columns begin..end of rows row_begin.. of `out`, in the
// dtype of `out` (contiguous rows); added to what is there if `accumulate`.
template <typename T>
void store_rows(const T* source, int64_t stride, const Tensor& out, int64_t row_begin, int64_t count,
                int64_t begin, int64_t end, bool accumulate);

// out[i] -= weights[i] * (x[i] - x[0]), rows of [n, d]; `out` in the accumulation dtype.
template <typename T>
void subtract_scaled_rows(const Tensor& out, const Tensor& x, const double* weights);

// |x_i - x_j|^2 from differences.
template <typename T>
T exact_distance(const Tensor& x, int64_t i, int64_t j);

// The squared norm of x [n, d] of any floating dtype, from some of its columns where there are many.
double squared_norm_of_columns(const Tensor& x);

// Copies `source` (float32 or float64) into a new tensor of `dtype`; itself if it has that dtype.
Tensor convert_rows(const Tensor& source, ScalarType dtype);

}  // namespace bido
