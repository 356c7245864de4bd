// SPDX-License-Identifier: Apache-2.0
//
// The current CUDA stream and errors of the runtime, for bido_cuda only (the shim lives in libtorch_cuda).
// From a target of PyTorch 2.13 on, Stream::nativeHandle() replaces the shim.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/shim_utils.h>

#include "stable.h"

namespace bido {

inline cudaStream_t current_cuda_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Of a call for the op `op`; `what` says which.
template <typename... Details>
void check_cuda(cudaError_t error, const char* op, const char* what, const Details&... details) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here, and not once more by what comes next
  STD_TORCH_CHECK(false, "bido_ext::", op, ": ", what, " failed: ", cudaGetErrorString(error), details...);
}

}  // namespace bido
