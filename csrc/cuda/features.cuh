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

__device__ inline float feature(const Features& f, int64_t at) {
  switch (f.type) {
    case FeatureType::float32:
      return static_cast<const float*>(f.x)[at];
    case FeatureType::half:
      return static_cast<float>(static_cast<const Half*>(f.x)[at]);
    default:
      return static_cast<float>(static_cast<const BFloat16*>(f.x)[at]);
  }
}

// Four features from `column` on, as float32, zero from column d on.
__device__ inline float4 four_features(const Features& f, int64_t row, int64_t column) {
  const int64_t at = row * f.stride + column;
  if (f.vectors && column + 4 <= f.d) {
    if (f.type == FeatureType::float32)
      return *reinterpret_cast<const float4*>(static_cast<const float*>(f.x) + at);
    const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(f.x) + at);
    if (f.type == FeatureType::bfloat16)
      return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xFFFF0000u),
              __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xFFFF0000u)};
  }
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = column + i < f.d ? feature(f, at + i) : 0.0f;
  return {v[0], v[1], v[2], v[3]};
}

}  // namespace bido
