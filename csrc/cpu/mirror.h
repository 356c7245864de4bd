// SPDX-License-Identifier: Apache-2.0
//
// The two halves of a symmetric matrix.
#pragma once

#include <algorithm>

#include "../common/stable.h"

namespace bido {

// Below the diagonal what is above it.
template <typename T>
void mirror_upper(T* a, int64_t n, int64_t stride) {
  constexpr int64_t kBlock = 32;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i0 = first * kBlock; i0 < std::min(n, last * kBlock); i0 += kBlock)
      for (int64_t j0 = 0; j0 <= i0; j0 += kBlock)
        for (int64_t i = i0; i < std::min(n, i0 + kBlock); ++i)
          for (int64_t j = j0; j < std::min(i, j0 + kBlock); ++j) a[i * stride + j] = a[j * stride + i];
  });
}

// (a + a') / 2, dense, rounded once.
template <typename T>
void symmetric_part(const double* a, int64_t stride, T* out, int64_t n) {
  constexpr int64_t kBlock = 16;
  torch::stable::parallel_for(0, (n + kBlock - 1) / kBlock, 1, [&](int64_t first, int64_t last) {
    for (int64_t i0 = first * kBlock; i0 < std::min(n, last * kBlock); i0 += kBlock)
      for (int64_t j0 = 0; j0 < n; j0 += kBlock)
        for (int64_t i = i0; i < std::min(n, i0 + kBlock); ++i)
          for (int64_t j = j0; j < std::min(n, j0 + kBlock); ++j)
            out[i * n + j] = static_cast<T>((a[i * stride + j] + a[j * stride + i]) / 2);
  });
}

}  // namespace bido
