// SPDX-License-Identifier: Apache-2.0
//
// Kernels that are wrong on purpose: the emulator must show it (tests/gpu_kernels/test_emulator.py).
#include "device.cuh"

namespace bido {
namespace {

// Each thread hands its number to its neighbour through shared memory.
template <bool kBarrier>
__global__ void pass_on_kernel(const float* in, float* out) {
  auto* const shared = reinterpret_cast<float*>(dynamic_shared_memory());
  shared[threadIdx.x] = in[threadIdx.x];
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % kBlock];
}

__global__ void divergent_barrier_kernel(float* out) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void different_barriers_kernel(float* out) {
  if (threadIdx.x == 3) {
    out[0] = warp_sum(1.0f);
  } else {
    __syncthreads();
  }
}

// Only the first block writes what every block reads.
__global__ void left_over_kernel(float* out) {
  __shared__ float kept[kBlock];
  if (blockIdx.x == 0) kept[threadIdx.x] = 1;
  out[blockIdx.x * kBlock + threadIdx.x] = kept[threadIdx.x];
}

Tensor left_over(Tensor x) {
  Tensor out = empty_like_with(x, {2, kBlock}, ScalarType::Float);
  launch("left_over", x, left_over_kernel, dim3(2), 0, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

__global__ void misaligned_kernel(const float* in, float* out, int offset) {
  if (threadIdx.x == 0) out[0] = load_vector<float4>(in + offset).x;
}

Tensor misaligned(Tensor x, int64_t offset) {
  Tensor out = empty_like_with(x, {1}, ScalarType::Float);
  launch("misaligned", x, misaligned_kernel, dim3(1), 0, static_cast<const float*>(x.const_data_ptr()),
         static_cast<float*>(out.mutable_data_ptr()), static_cast<int>(offset));
  return out;
}

Tensor too_large(Tensor x, int64_t y, int64_t z, int64_t shared_bytes) {
  launch("too_large", x, left_over_kernel, dim3(1, static_cast<unsigned>(y), static_cast<unsigned>(z)),
         static_cast<int>(shared_bytes), static_cast<float*>(x.mutable_data_ptr()));
  return x;
}

Tensor pass_on(Tensor x, bool barrier) {
  Tensor out = empty_like_with(x, {kBlock}, ScalarType::Float);
  const auto* const in = static_cast<const float*>(x.const_data_ptr());
  launch("pass_on", x, barrier ? pass_on_kernel<true> : pass_on_kernel<false>, dim3(1), kBlock * 4, in,
         static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

Tensor stuck(Tensor x, bool left) {
  launch("stuck", x, left ? divergent_barrier_kernel : different_barriers_kernel, dim3(1), 0,
         static_cast<float*>(x.mutable_data_ptr()));
  return x;
}

}  // namespace
}  // namespace bido

STABLE_TORCH_LIBRARY_FRAGMENT(bido_cuda_emulated, m) {
  m.def("pass_on(Tensor x, bool barrier) -> Tensor");
  m.def("launches() -> int");
  m.def("left_over(Tensor x) -> Tensor");
  m.def("too_large(Tensor(a!) x, int y, int z, int shared_bytes) -> Tensor(a!)");
  m.def("misaligned(Tensor x, int offset) -> Tensor");
  m.def("stuck(Tensor(a!) x, bool left) -> Tensor(a!)");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cuda_emulated, CompositeExplicitAutograd, m) {
  m.impl("launches", TORCH_BOX(&emulator::launches));
}

STABLE_TORCH_LIBRARY_IMPL(bido_cuda_emulated, CPU, m) {
  m.impl("left_over", TORCH_BOX(&bido::left_over));
  m.impl("too_large", TORCH_BOX(&bido::too_large));
  m.impl("pass_on", TORCH_BOX(&bido::pass_on));
  m.impl("misaligned", TORCH_BOX(&bido::misaligned));
  m.impl("stuck", TORCH_BOX(&bido::stuck));
}
