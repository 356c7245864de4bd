// SPDX-License-Identifier: Apache-2.0
//
// The two matrix products of this package, as small kernels on buffers that stay in cache. Each exists once
// per instruction set (products_*.cpp compile products_kernels.h with their own flags); the best one of the
// machine is taken at first use. One thread runs a call, and its sums are in a fixed order: results do not
// depend on the number of threads. BIDO_EXT_CPU_ISA=baseline|x86-64-v3|x86-64-v4 forces one.
#pragma once

#include <cstdint>

namespace bido {

// Rows that are needed next, in memory: a product brings them to the second-level cache while it computes,
// for rows far apart in memory are too short for the hardware to see them coming. `data` may be null.
struct RowsAhead {
  const char* data;
  int64_t rows, stride, width;  // in bytes
};

template <typename T>
struct ProductKernels {
  const char* isa;
  int64_t dot_rows;    // rows of a and b are read in multiples of this: pad the buffers with zeros
  int64_t dot_depth;   // and their columns in multiples of this
  int64_t panel_rows;  // rows of a panel are read, and of c written, in multiples of this
  int64_t strip;       // columns of a strip

  // c (+)= a b', rows by rows: a [rows_a, depth], b [rows_b, depth], both with row stride `stride`.
  // `below` = (first row of a) - (first row of b) in the symmetric matrix: tiles wholly below its diagonal
  // are skipped; pass a very negative number to compute all.
  void (*dot_block)(const T* a, int64_t rows_a, const T* b, int64_t rows_b, int64_t stride, int64_t depth,
                    T* c, int64_t c_stride, int64_t below, bool accumulate, const RowsAhead& ahead);

  // c (+)= a b: a [rows, depth] with row stride `a_stride`, or `a_transposed`, the transpose of a [depth,
  // rows] with that row stride; b in strips, [strips][depth][strip].
  void (*panel_block)(const T* a, int64_t a_stride, bool a_transposed, const T* b, int64_t rows,
                      int64_t depth, int64_t strips, T* c, int64_t c_stride, bool accumulate,
                      const RowsAhead& ahead);
};

template <typename T>
const ProductKernels<T>& product_kernels();

}  // namespace bido
