// SPDX-License-Identifier: Apache-2.0
//
// How an operand of a tensor-core product lies in shared memory, and how its entries are rounded. Arithmetic
// shared by host and device.
//
// A tile holds rows of 128 bytes: 32 float32 or 64 half-precision numbers along the summed dimension, in
// eight chunks of 16 bytes. Chunk c of row r lies at place c ^ (r mod 8) of its row, which is the 128-byte
// swizzle of the Hopper matrix instructions and keeps ldmatrix free of bank conflicts.
#pragma once

#include <cstdint>
#include <cstring>

#include "tile_order.h"

namespace bido {

constexpr int kRowBytes = 128;
constexpr int kChunkBytes = 16;
constexpr int kChunks = kRowBytes / kChunkBytes;
constexpr int kTileAlignment = 8 * kRowBytes;  // the swizzle repeats every eight rows

BIDO_HOST_DEVICE inline int chunk_offset(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7)) * kChunkBytes);
}

// To the 10 bits of mantissa of TF32, ties away from zero; NaN and infinities stay.
BIDO_HOST_DEVICE inline float round_to_tf32(float x) {
  if (x != x) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x1000u) & 0xFFFFE000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// x = high + low up to 2^-22: three TF32 products of such pairs have float32 accuracy.
struct SplitFloat {
  float high, low;
};

BIDO_HOST_DEVICE inline SplitFloat split_for_tf32(float x) {
  const float high = round_to_tf32(x);
  return {high, round_to_tf32(x - high)};
}

// Place of accumulator r of a 16 x 8 block in lane `lane` of a warp (mma and wgmma agree).
struct Place {
  int row, column;
};

BIDO_HOST_DEVICE inline Place accumulator_place(int lane, int r) {
  return {lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2};
}

}  // namespace bido
