// SPDX-License-Identifier: Apache-2.0
//
// The variables of a group as the kernels take them, and what is read of them.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/resolution.h"
#include "device.cuh"

namespace bido {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

enum class FeatureType : int { float32, half, bfloat16 };

// One variable with a kernel: rows of d features, `stride` entries apart.
struct Features {
  const void* x;
  // Of the columns, zero beyond d up to a multiple of kCentersPadding. Half-precision features are centered
  // in the backward alone: their products take them bit by bit as they are.
  const float* centers;
  float* marked;         // nonzero: an entry waits for its exact distance
  const float4* ranges;  // parts of what was seen of the centered features (group.cu)
  int64_t stride;
  int64_t d;
  FeatureType type;
  KernelKind kind;
  bool vectors;     // rows start on multiples of 16 bytes
  bool tf32;        // products of float32 may be rounded to TF32 (torch.set_float32_matmul_precision)
  int slot;         // place in the stack of Gram matrices
  int parameter;    // place of its first parameter
  int range_count;  // of the parts
};

constexpr int kCentersPadding = 128;
constexpr int kMostPerLaunch = 8;

struct FeatureGroup {
  Features v[kMostPerLaunch];
  int count;
};

// Four float32 features from `column` on, zero from column d on.
__device__ inline float4 four_floats(const Features& f, int64_t row, int64_t column) {
  const float* const x = static_cast<const float*>(f.x) + row * f.stride + column;
  if (f.vectors && column + 4 <= f.d) return load_vector<float4>(x);
  return make_float4(column < f.d ? x[0] : 0, column + 1 < f.d ? x[1] : 0, column + 2 < f.d ? x[2] : 0,
                     column + 3 < f.d ? x[3] : 0);
}

// The bits of four half-precision features, zero from column d on.
__device__ inline uint2 four_halves(const Features& f, int64_t row, int64_t column) {
  const uint16_t* const x = static_cast<const uint16_t*>(f.x) + row * f.stride + column;
  if (f.vectors && column + 4 <= f.d) return load_vector<uint2>(x);
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

__device__ inline float one_feature(const Features& f, int64_t row, int64_t column) {
  const int64_t at = row * f.stride + column;
  if (f.type == FeatureType::float32) return static_cast<const float*>(f.x)[at];
  return widen(f.type, static_cast<const uint16_t*>(f.x)[at]);
}

// gamma, and alpha of the kernel that has one.
__device__ inline KernelParameters<float> parameters_of(KernelKind kind, const double* own) {
  return {static_cast<float>(own[0]),
          kind == KernelKind::rational_quadratic ? static_cast<float>(own[1]) : 1.0f};
}

// The weight of a feature gradient; of equal rows none, whose difference would be lost in it.
__device__ inline float weight_at(KernelKind kind, float entry, float grad, KernelParameters<float> p) {
  if (kind == KernelKind::gram) return grad;
  if (kind != KernelKind::linear && entry == 0) return 0;
  return feature_weight(kind, entry, grad, p);
}

// Of entries K - 1 whose rows differ: how many, and the sum of their K. Equal rows have no part in a
// gradient.
struct MeanOfK {
  double sum = 0, count = 0;
  __device__ void add(float entry) {
    if (entry == 0) return;
    sum += 1.0 + static_cast<double>(entry);
    count += 1;
  }
};

__device__ inline double alpha_of(KernelKind kind, const double* own) {
  return kind == KernelKind::rational_quadratic ? own[1] : 1.0;
}

// 0, or NaN where they do not hold the digits of K that the weights need.
__device__ inline float nan_if_weights_lost(KernelKind kind, double sum, double count, const double* own) {
  return count == 0 || holds_weights(kind, sum / count, alpha_of(kind, own)) ? 0.0f : NAN;
}

}  // namespace bido
