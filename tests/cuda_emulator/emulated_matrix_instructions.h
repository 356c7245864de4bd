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

// `start` and the products of two rows of operands, which float32 holds exactly.
template <int kElements>
float dot(float start, const float* x, const float* y) {
  double sum = start;
  for (int e = 0; e < kElements; ++e) sum += static_cast<double>(x[e]) * y[e];
  return truncated(sum);
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
  constexpr int kBytes = emulated::kElementBytes<E>, kPerWord = 4 / kBytes, kElements = 8 * kPerWord;
  const int lane = static_cast<int>(threadIdx.x) % emulator::kLanes;
  float rows[2][kElements], columns[2][kElements];
  for (int word = 0; word < 8; ++word)
    for (int half = 0; half < 2; ++half) {
      const uint32_t* const x = &of_lane(lane / 4 * 4 + word % 4)->a[half + 2 * (word / 4)];
      const uint32_t* const y = &of_lane((2 * (lane % 4) + half) * 4 + word % 4)->b[word / 4];
      for (int e = 0; e < kPerWord; ++e) {
        rows[half][word * kPerWord + e] = emulated::element<E>(reinterpret_cast<const char*>(x) + e * kBytes);
        columns[half][word * kPerWord + e] =
            emulated::element<E>(reinterpret_cast<const char*>(y) + e * kBytes);
      }
    }
  for (int r = 0; r < 4; ++r) c[r] = emulated::dot<kElements>(c[r], rows[r / 2], columns[r % 2]);
}

inline uint64_t tile_descriptor(uint32_t address) {
  if (address / 32 * 32 != address) throw std::runtime_error("CUDA emulator: an unaligned descriptor");
  return (1ull << 62) | ((1024ull >> 4) << 32) | (1ull << 16) | ((address & 0x3FFFF) >> 4);
}

namespace emulated {

// 16 bytes of a K-major tile with the 128-byte swizzle, from byte `byte` of row `row` on.
inline const char* of_descriptor(uint64_t descriptor, int row, int byte) {
  if (descriptor >> 62 != 1) throw std::runtime_error("CUDA emulator: only the 128-byte swizzle is known");
  const auto start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const auto group = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t plain = start + row / 8 * group + row % 8 * 128 + byte;
  return shared(plain ^ ((plain >> 7 & 7) << 4), 16);
}

// The 32 bytes of a row that one instruction reads.
template <Element E>
void read_row(float* out, uint64_t descriptor, int row) {
  constexpr int kBytes = kElementBytes<E>, kHalf = 16 / kBytes;
  for (int half = 0; half < 2; ++half) {
    const char* const at = of_descriptor(descriptor, row, 16 * half);
    for (int e = 0; e < kHalf; ++e) out[half * kHalf + e] = element<E>(at + e * kBytes);
  }
}

template <Element E>
void multiply_now(float* c, uint64_t a, uint64_t b, bool add) {
  constexpr int kElements = 32 / kElementBytes<E>;
  const int lane = static_cast<int>(threadIdx.x) % emulator::kLanes;
  const int warp = static_cast<int>(threadIdx.x) / emulator::kLanes % 4;
  float rows[2][kElements], columns[2][kElements];
  for (int half = 0; half < 2; ++half) read_row<E>(rows[half], a, warp * 16 + lane / 4 + 8 * half);
  for (int k = 0; k < 64; ++k) {
    if (k % 4 == 0)
      for (int half = 0; half < 2; ++half) read_row<E>(columns[half], b, k / 4 * 8 + 2 * (lane % 4) + half);
    c[k] = dot<kElements>(add ? c[k] : 0.0f, rows[k % 4 / 2], columns[k % 2]);
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
