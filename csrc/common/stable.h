// SPDX-License-Identifier: Apache-2.0
//
// The only file that names a raw shim of the LibTorch stable ABI. Each helper says which
// upstream wrapper would replace it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <vector>

namespace bido {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor empty_like_with(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

// out = a @ b through the BLAS that PyTorch uses; `out` may be a row-strided view.
// Replaceable by torch::stable::mm_out once ops.h has one.
inline void matmul_into(const Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  // The returned alias of `out` is owned by the stack: take it, so that it is released.
  torch::stable::detail::to<Tensor>(stack[0]);
}

// out += a @ b on the CPU. The shim is part of the same stable C interface; the stable headers have no
// wrapper because they have no Scalar.
inline void matmul_add_cpu(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

inline Tensor rows(Tensor t, int64_t begin, int64_t end) {
  return torch::stable::narrow(t, 0, begin, end - begin);
}

inline Tensor columns(Tensor t, int64_t begin, int64_t end) {
  return torch::stable::narrow(t, 1, begin, end - begin);
}

// Float64 is computed in float64; every narrower type accumulates in float32, because a Gram
// matrix of BiDO's bandwidth loses all of its information below float32 (docs/mathematics.md).
inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace bido
