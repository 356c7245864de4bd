// SPDX-License-Identifier: Apache-2.0
//
// Index arithmetic shared by host and device: the tiles of a symmetric matrix that lie on or
// above the diagonal, numbered 0 .. T(T+1)/2 - 1 column by column.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define BIDO_HOST_DEVICE __host__ __device__
#else
#define BIDO_HOST_DEVICE
#endif

namespace bido {

struct TileIndex {
  int64_t row;  // row <= column
  int64_t column;
};

BIDO_HOST_DEVICE inline int64_t upper_tile_count(int64_t tiles) { return tiles * (tiles + 1) / 2; }

BIDO_HOST_DEVICE inline TileIndex upper_tile(int64_t index) {
  // Column c starts at c(c+1)/2. The square root may be off by one for large indices: correct it.
  auto column = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(index) + 1.0) - 1.0) / 2.0);
  while (column * (column + 1) / 2 > index) --column;
  while ((column + 1) * (column + 2) / 2 <= index) ++column;
  return {index - column * (column + 1) / 2, column};
}

}  // namespace bido
