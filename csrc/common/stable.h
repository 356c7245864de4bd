// SPDX-License-Identifier: Apache-2.0
//
// What every kernel needs of the LibTorch stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace bido {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor empty_like_with(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

// Float64 is computed in float64; every narrower type accumulates in float32, because a Gram
// matrix of BiDO's bandwidth loses all of its information below float32 (docs/mathematics.md).
inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace bido
