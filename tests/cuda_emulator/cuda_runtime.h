// SPDX-License-Identifier: Apache-2.0
//
// Stands in for the CUDA runtime so that the kernels of csrc/cuda run on the host, in tests: every thread of
// a block is a fiber, blocks run one after the other. Correctness only; what it cannot show is speed, memory
// ordering between barriers, and whether the instructions mean on hardware what the manual says.
//
// It is unkind on purpose: shared memory, static and dynamic, starts each block as NaN, no block gets more of
// it than every GPU has (BIDO_EMULATOR_CAPABILITY=9: than Hopper), grids keep to the limits of the hardware,
// the order of the threads between barriers can be turned around or shuffled
// (BIDO_EMULATOR_ORDER=forward|reverse|shuffle), and a barrier that not all threads reach is an error, as is
// a vector that does not start on a multiple of its size.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a section of its own, which the emulator can fill
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

namespace emulator {

constexpr int kLanes = 32;

struct Place {
  dim3 thread, block, grid;
};
const Place& place();  // of the running thread

void run_grid(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& kernel);
void block_barrier();
// Gives `bytes` of this lane to its warp; returns what lane `i` gave at i * stride.
const char* warp_exchange(const void* mine, size_t bytes);
constexpr size_t kExchangeStride = 64;

// A vector from an address that no device reads it from is an error.
void check_alignment(const void* address, size_t size);

int64_t launches();  // since the start
char* dynamic_shared_memory();
int shared_bytes();
int major_capability();  // BIDO_EMULATOR_CAPABILITY, default 8
int multiprocessors();   // BIDO_EMULATOR_MULTIPROCESSORS, default 132
bool lazy_wgmma();       // BIDO_EMULATOR_WGMMA=lazy: asynchronous products run as late as they may

template <typename T>
T shuffle(T value, int source) {
  static_assert(sizeof(T) <= kExchangeStride);
  T result;
  std::memcpy(&result, warp_exchange(&value, sizeof value) + source * kExchangeStride, sizeof result);
  return result;
}

}  // namespace emulator

#define threadIdx (emulator::place().thread)
#define blockIdx (emulator::place().block)
#define gridDim (emulator::place().grid)

inline void __syncthreads() { emulator::block_barrier(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::shuffle(value, static_cast<int>(threadIdx.x % emulator::kLanes) ^ mask);
}
