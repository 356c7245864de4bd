// SPDX-License-Identifier: Apache-2.0
//
// The variables of a group as the kernels take them, and what is read of them.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/kernel_tile.h"
#include "device.cuh"

namespace bido {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

enum class FeatureType : int { float32, half, bfloat16 };

// One variable with a kernel: rows of d features, `stride` entries apart.
struct Features {
  const void* x;
  const float*
      means;  // of the columns, zero beyond d up to a multiple of kMeansPadding; float32 features only
  int64_t stride;
  int64_t d;
  FeatureType type;
  KernelKind kind;
  bool vectors;   // rows start on multiples of 16 bytes
  bool tf32;      // products of float32 may be rounded to TF32 (torch.set_float32_matmul_precision)
  int slot;       // place in the stack of Gram matrices
  int parameter;  // place among the parameters
};

constexpr int kMeansPadding = 128;
constexpr int kMostPerLaunch = 8;

struct FeatureGroup {
  Features v[kMostPerLaunch];
  int count;
};

// Four float32 features from `column` on, zero from column d on.
__device__ inline float4 four_floats(const Features& f, int64_t row, int64_t column) {
  const float* const x = static_cast<const float*>(f.x) + row * f.stride + column;
  if (f.vectors && column + 4 <= f.d) return *reinterpret_cast<const float4*>(x);
  return make_float4(column < f.d ? x[0] : 0, column + 1 < f.d ? x[1] : 0, column + 2 < f.d ? x[2] : 0,
                     column + 3 < f.d ? x[3] : 0);
}

// The bits of four half-precision features, zero from column d on.
__device__ inline uint2 four_halves(const Features& f, int64_t row, int64_t column) {
  const uint16_t* const x = static_cast<const uint16_t*>(f.x) + row * f.stride + column;
  if (f.vectors && column + 4 <= f.d) return *reinterpret_cast<const uint2*>(x);
  uint32_t v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = column + i < f.d ? x[i] : 0;
  return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
}

__device__ inline float widen(FeatureType type, uint32_t bits) {
  if (type == FeatureType::bfloat16) return __uint_as_float(bits << 16);
  Half value;
  value.x = static_cast<uint16_t>(bits);
  return static_cast<float>(value);
}

__device__ inline float4 widened(FeatureType type, uint2 bits) {
  return make_float4(widen(type, bits.x & 0xFFFF), widen(type, bits.x >> 16), widen(type, bits.y & 0xFFFF),
                     widen(type, bits.y >> 16));
}

}  // namespace bido
