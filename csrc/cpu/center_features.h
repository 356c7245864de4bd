// SPDX-License-Identifier: Apache-2.0
//
// Features minus their column means, in the accumulation type. Distances do not change, but their
// digits do: |x_i|^2 + |x_j|^2 - 2<x_i, x_j> cancels far less when the common offset is gone. Chunks of
// columns are centered into a buffer that stays in cache: the features cross memory once, and no copy of
// their size is made.
#pragma once

#include "../common/stable.h"
#include "vectorize.h"

namespace bido {

// Columns begin..end of x minus their means, into `out` [n, end - begin] (contiguous, float32 or float64).
// x: [n, d] of any floating dtype with column stride one. Runs on the calling thread.
void center_columns_cpu(const Tensor& x, int64_t begin, int64_t end, const Tensor& out);

// The same for a whole chunk with all threads.
void center_columns_parallel_cpu(const Tensor& x, int64_t begin, int64_t end, const Tensor& out);

// Column means of x into `means` [d], in the accumulation dtype.
void column_means_cpu(const Tensor& x, const Tensor& means);

// Squared norms of the rows of x minus `means`, into `norms` [n].
void centered_norms_cpu(const Tensor& x, const Tensor& means, const Tensor& norms);

// Rows row_begin..row_end and columns begin..end of x minus `means`, into `out` (contiguous).
void subtract_means_cpu(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                        const Tensor& means, const Tensor& out);

// x itself where its columns have stride one, else a contiguous copy.
Tensor with_dense_columns(const Tensor& x);

// x [n, d] in the accumulation dtype: x itself for float32 and float64.
Tensor widen_cpu(const Tensor& x);

// Copies `source` [n, d] (float32 or float64) into a new tensor of `dtype`.
Tensor convert_cpu(const Tensor& source, ScalarType dtype);

}  // namespace bido
