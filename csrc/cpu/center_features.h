// SPDX-License-Identifier: Apache-2.0
//
// Features minus their column means, in the accumulation type. Distances do not change, but their
// digits do: |x_i|^2 + |x_j|^2 - 2<x_i, x_j> cancels far less when the common offset is gone.
#pragma once

#include "../common/stable.h"
#include "vectorize.h"

namespace bido {

// x: [n, d] of any floating dtype and any strides. Returns [n, d], contiguous, float32 or float64.
Tensor center_features_cpu(const Tensor& x);

// Copies `source` [n, d] (float32 or float64) into a new tensor of `dtype`.
Tensor convert_cpu(const Tensor& source, ScalarType dtype);

}  // namespace bido
