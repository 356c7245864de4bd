// SPDX-License-Identifier: Apache-2.0
//
// Whether float32 holds the squares of a variable's centered features (common/resolution.h). What it does not
// hold becomes NaN through the norms, without the host knowing.
#pragma once

#include "features.cuh"

namespace bido {

// Of all parts: the largest |x - center|; sums over the columns of center^2 and of the square of what
// |x - center| mostly is. By a block; every thread gets it.
__device__ inline float4 joined_ranges(const float4* parts, int count, float* scratch) {
  float largest = 0, offset = 0, spread = 0;
  for (int k = threadIdx.x; k < count; k += kBlock) {
    largest = parts[k].x > largest ? parts[k].x : largest;
    offset += parts[k].y;
    spread += parts[k].z;
  }
  largest = block_max(largest, scratch);
  offset = block_sum(offset, scratch);
  spread = block_sum(spread, scratch);
  return make_float4(largest, offset, spread, 0);
}

// 0, or NaN: to be added to the norms. By a block; every thread gets it.
__device__ inline float nan_if_out_of_range(const Features& f, const double* parameters, float* scratch) {
  const float4 range = joined_ranges(f.ranges, f.range_count, scratch);
  if (range.x == 0) return 0;  // constant features: exact zeros
  const double largest = static_cast<double>(range.x) * static_cast<double>(range.x);
  const bool fits = is_in_range(f.kind, parameters[f.parameter], largest);
  const bool near = f.type == FeatureType::float32 || !(range.y > kLargestOffset * range.z);
  return fits && near ? 0.0f : NAN;
}

}  // namespace bido
