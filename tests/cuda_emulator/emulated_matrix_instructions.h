// SPDX-License-Identifier: Apache-2.0
//
// The matrix instructions of csrc/cuda/matrix_instructions.cuh on the host, by the layouts of the PTX manual.
// TF32 operands lose the bits that the hardware does not read, sums those that it cuts off. Asynchronous
// products run when they are issued, or as late as they may (BIDO_EMULATOR_WGMMA=lazy), when a stage that was
// overwritten too early would show.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "cuda_runtime.h"

#define BIDO_HAS_WGMMA 1

namespace bido {

enum class Element { tf32, half, bfloat16 };

inline uint32_t shared_address(const void* pointer) {
  const auto offset = static_cast<const char*>(pointer) - emulator::dynamic_shared_memory();
  if (offset < 0 || offset >= emulator::shared_bytes())
    throw std::runtime_error("CUDA emulator: an address outside of shared memory");
  return static_cast<uint32_t>(offset);
}

namespace emulated {

inline const char* shared(uint32_t address, int bytes) {
  if (static_cast<int>(address) + bytes > emulator::shared_bytes())
    throw std::runtime_error("CUDA emulator: a read beyond shared memory");
  return emulator::dynamic_shared_memory() + address;
}

template <Element E>
float element(const char* at) {
  if constexpr (E == Element::tf32) {
    uint32_t bits;
    std::memcpy(&bits, at, sizeof bits);
    return __uint_as_float(bits & 0xFFFFE000u);
  } else if constexpr (E == Element::half) {
    torch::headeronly::Half value;
    std::memcpy(&value, at, sizeof value);
    return value;
  } else {
    torch::headeronly::BFloat16 value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
}

// What the tensor cores add up they cut off, towards zero.
inline float truncated(double sum) {
  const auto nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

template <Element E>
constexpr int kElementBytes = E == Element::tf32 ? 4 : 2;

struct Operands {
  uint32_t a[4], b[2];
};

}  // namespace emulated

inline void load_matrices(uint32_t (&out)[4], uint32_t address) {
  if (address % 16 != 0) throw std::runtime_error("CUDA emulator: ldmatrix of an unaligned row");
  const char* const given = emulator::warp_exchange(&address, sizeof address);
  const int lane = static_cast<int>(threadIdx.x) % emulator::kLanes;
  for (int m = 0; m < 4; ++m) {
    uint32_t row;
    std::memcpy(&row, given + (8 * m + lane / 4) * emulator::kExchangeStride, sizeof row);
    std::memcpy(&out[m], emulated::shared(row + 4 * (lane % 4), 4), 4);
  }
}

// Entry (row, k) of a lies in lane row % 8 * 4 + word % 4 of the word 4 bytes wide that holds k.
template <Element E>
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  emulated::Operands mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const char* const given = emulator::warp_exchange(&mine, sizeof mine);
  const auto of_lane = [&](int lane) {
    return reinterpret_cast<const emulated::Operands*>(given + lane * emulator::kExchangeStride);
  };
  constexpr int kBytes = emulated::kElementBytes<E>, kPerWord = 4 / kBytes;
  const int lane = static_cast<int>(threadIdx.x) % emulator::kLanes;
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
    double sum = c[r];
    for (int word = 0; word < 8; ++word) {
      const uint32_t* const x = &of_lane(row % 8 * 4 + word % 4)->a[row / 8 + 2 * (word / 4)];
      const uint32_t* const y = &of_lane(column * 4 + word % 4)->b[word / 4];
      for (int e = 0; e < kPerWord; ++e)
        sum += static_cast<double>(emulated::element<E>(reinterpret_cast<const char*>(x) + e * kBytes)) *
               emulated::element<E>(reinterpret_cast<const char*>(y) + e * kBytes);
    }
    c[r] = emulated::truncated(sum);
  }
}

inline uint64_t tile_descriptor(uint32_t address) {
  if (address / 32 * 32 != address) throw std::runtime_error("CUDA emulator: an unaligned descriptor");
  return (1ull << 62) | ((1024ull >> 4) << 32) | (1ull << 16) | ((address & 0x3FFFF) >> 4);
}

namespace emulated {

// `bytes` bytes of a K-major tile with the 128-byte swizzle, from byte `byte` of row `row` on.
inline const char* of_descriptor(uint64_t descriptor, int row, int byte, int bytes) {
  if (descriptor >> 62 != 1) throw std::runtime_error("CUDA emulator: only the 128-byte swizzle is known");
  const auto start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const auto group = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t plain = start + row / 8 * group + row % 8 * 128 + byte;
  return shared(plain ^ ((plain >> 7 & 7) << 4), bytes);
}

template <Element E>
void multiply_now(float* c, uint64_t a, uint64_t b, bool add) {
  constexpr int kBytes = kElementBytes<E>;
  const int lane = static_cast<int>(threadIdx.x) % emulator::kLanes;
  const int warp = static_cast<int>(threadIdx.x) / emulator::kLanes % 4;
  for (int k = 0; k < 64; ++k) {
    const int row = warp * 16 + lane / 4 + 8 * (k % 4 / 2), column = k / 4 * 8 + 2 * (lane % 4) + k % 2;
    double sum = add ? c[k] : 0.0;
    for (int byte = 0; byte < 32; byte += kBytes)
      sum += element<E>(of_descriptor(a, row, byte, kBytes)) *
             element<E>(of_descriptor(b, column, byte, kBytes));
    c[k] = truncated(sum);
  }
}

struct Pending {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
};
inline Pending& pending() {
  static std::unordered_map<unsigned, Pending> by_thread;
  return by_thread[threadIdx.x];
}

}  // namespace emulated

inline void fence_shared_for_wgmma() {}
inline void now_readable(float (&)[64]) {}
inline void begin_wgmma() {}

template <Element E>
void multiply_wgmma(float (&c)[64], uint64_t a, uint64_t b, bool add) {
  float* const target = c;
  if (emulator::lazy_wgmma()) {
    emulated::pending().open.push_back([=] { emulated::multiply_now<E>(target, a, b, add); });
  } else {
    emulated::multiply_now<E>(target, a, b, add);
  }
}

inline void commit_wgmma() {
  auto& p = emulated::pending();
  p.groups.push_back(std::move(p.open));
  p.open.clear();
}

template <int kAllowed>
void wait_wgmma() {
  auto& groups = emulated::pending().groups;
  while (groups.size() > kAllowed) {
    for (const auto& product : groups.front()) product();
    groups.pop_front();
  }
}

}  // namespace bido
