// SPDX-License-Identifier: Apache-2.0
//
// Launching and what else a kernel needs of the device. On the host the same kernels run in the emulator of
// tests/cuda_emulator, which takes the place of cuda_runtime.h and is compiled in by BIDO_EMULATED.
#pragma once

#include <cuda_runtime.h>

#ifdef BIDO_EMULATED
#include <torch/csrc/stable/accelerator.h>

#include "../common/stable.h"
#else
#include "../common/cuda_stream.h"
#endif

namespace bido {

constexpr int kWarp = 32;
constexpr int kBlock = 256;  // threads of every block
// Shared memory that a block may have: on every architecture served (sm_86, sm_89 and sm_120 have the least),
// and where the kernels with wgmma run.
constexpr int kSharedEverywhere = 99 * 1024, kSharedOnHopper = 227 * 1024;

#ifdef BIDO_EMULATED
// Blocks, one after the other, in the emulator; the stream means nothing there.
template <typename... Parameters, typename... Arguments>
void launch(const char*, const Tensor&, void (*kernel)(Parameters...), dim3 grid, int shared_bytes,
            const Arguments&... arguments) {
  emulator::run_grid(grid, dim3(kBlock), shared_bytes, [&] { kernel(arguments...); });
}
inline int major_capability(const Tensor&) { return emulator::major_capability(); }
inline int multiprocessors(const Tensor&) { return emulator::multiprocessors(); }
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
};
#else
// On the current stream of the tensor's device; an error names the op.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, const Tensor& like, void (*kernel)(Parameters...), dim3 grid, int shared_bytes,
            const Arguments&... arguments) {
  const auto check = [&](cudaError_t error, const char* what) {
    check_cuda(error, op, what, " (", shared_bytes, " bytes of dynamic shared memory, ", grid.x, " x ",
               grid.y, " x ", grid.z, " blocks)");
  };
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
          "asking for shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kBlock);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = current_cuda_stream(like.get_device_index());
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "CUDA launch");
}
inline int device_attribute(const Tensor& like, cudaDeviceAttr attribute) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, like.get_device_index()), "device_attribute",
             "asking for a property of the device");
  return value;
}
inline int major_capability(const Tensor& like) {
  return device_attribute(like, cudaDevAttrComputeCapabilityMajor);
}
inline int multiprocessors(const Tensor& like) {
  return device_attribute(like, cudaDevAttrMultiProcessorCount);
}
// Makes the device of a tensor the current one while it lives.
struct OnDevice {
  explicit OnDevice(const Tensor& x) : guard(x.get_device_index()) {}
  torch::stable::accelerator::DeviceGuard guard;
};
#endif

// Starts on a multiple of kSharedAlignment, for which launches ask for as many bytes more: what lies before
// it in shared memory is the compiler's affair.
constexpr int kSharedAlignment = 1024;

__device__ inline char* dynamic_shared_memory() {
#ifdef BIDO_EMULATED
  return emulator::dynamic_shared_memory();
#else
  extern __shared__ char bytes[];
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(bytes));
  return bytes + (kSharedAlignment - address % kSharedAlignment) % kSharedAlignment;
#endif
}

// A vector of float4, uint4 or uint2 from an address that is a multiple of its size.
template <typename Vector>
__device__ inline Vector load_vector(const void* address) {
#ifdef BIDO_EMULATED
  emulator::check_alignment(address, sizeof(Vector));
#endif
  return *static_cast<const Vector*>(address);
}

// Sums over a warp, or over groups of `width` lanes, in an order that is always the same; every lane gets it.
template <typename T>
__device__ inline T warp_sum(T value, int width = kWarp) {
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Over the block; every thread gets it. `scratch`: one number per warp.
template <typename T>
__device__ inline T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < kBlock / kWarp; ++w) sum += scratch[w];
  return sum;
}

// The largest of numbers that are not NaN.
template <typename T>
__device__ inline T block_max(T value, T* scratch) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, value, offset);
    value = other > value ? other : value;
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int w = 0; w < kBlock / kWarp; ++w) value = scratch[w] > value ? scratch[w] : value;
  return value;
}

// All that a kernel reads through a pointer lies on one device: the dispatcher comes here as soon as one of
// the arguments does.
inline void check_same_device(const char* op, const Tensor& like, const std::vector<Tensor>& others) {
  for (const Tensor& other : others)
    STD_TORCH_CHECK(other.get_device_index() == like.get_device_index(), op,
                    ": all tensors must be on one device");
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace bido
