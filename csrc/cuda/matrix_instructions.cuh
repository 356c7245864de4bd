// SPDX-License-Identifier: Apache-2.0
//
// The matrix instructions, one function each: ldmatrix and mma.sync (sm_80 and newer), wgmma (sm_90a).
// Nothing here decides anything; the layouts are those of the PTX manual. BIDO_EMULATED replaces the file.
#pragma once

#include <cstdint>

#ifdef BIDO_EMULATED
#include "emulated_matrix_instructions.h"
#else

namespace bido {

enum class Element { tf32, half, bfloat16 };

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define BIDO_HAS_WGMMA 1
#endif

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8 x 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// c += a b', 16 x 8 over 32 bytes of depth.
template <Element E>
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
  if constexpr (E == Element::tf32) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (E == Element::half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// A swizzled K-major tile for wgmma: start, eight rows (1024 bytes) from one group of rows to the next.
__device__ inline uint64_t tile_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupStride = (1024ull >> 4) << 32, kLeading = 1ull << 16;
  return kSwizzle128 | kGroupStride | kLeading | ((address & 0x3FFFF) >> 4);
}

// Writes to shared memory become visible to the matrix unit of the warpgroup.
__device__ inline void fence_shared_for_wgmma() {
#ifdef BIDO_HAS_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ inline void begin_wgmma() {
#ifdef BIDO_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void commit_wgmma() {
#ifdef BIDO_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most `Pending` groups run.
template <int Pending>
__device__ inline void wait_wgmma() {
#ifdef BIDO_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#endif
}

// After the wait: keeps reads of the accumulators behind it.
__device__ inline void now_readable(float (&c)[64]) {
#pragma unroll
  for (float& value : c) asm volatile("" : "+f"(value)::"memory");
}

#define BIDO_FLOATS_8(c, i)                                                                   \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define BIDO_WGMMA_64(shape, types, transposes)                                                \
  asm volatile(                                                                                \
      "{ .reg .pred accumulate; setp.ne.b32 accumulate, %66, 0; "                              \
      "wgmma.mma_async.sync.aligned." shape "." types                                          \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "               \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "       \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "       \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "      \
      "%64, %65, accumulate, 1, 1" transposes "; }"                                            \
      : BIDO_FLOATS_8(c, 0), BIDO_FLOATS_8(c, 8), BIDO_FLOATS_8(c, 16), BIDO_FLOATS_8(c, 24),  \
        BIDO_FLOATS_8(c, 32), BIDO_FLOATS_8(c, 40), BIDO_FLOATS_8(c, 48), BIDO_FLOATS_8(c, 56) \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)))

// c = a b' or c += a b', 64 x 128 over 32 bytes of depth, by a warpgroup, asynchronously.
template <Element E>
__device__ inline void multiply_wgmma(float (&c)[64], uint64_t a, uint64_t b, bool add) {
#ifdef BIDO_HAS_WGMMA
  if constexpr (E == Element::tf32) {
    BIDO_WGMMA_64("m64n128k8", "f32.tf32.tf32", "");
  } else if constexpr (E == Element::half) {
    BIDO_WGMMA_64("m64n128k16", "f32.f16.f16", ", 0, 0");
  } else {
    BIDO_WGMMA_64("m64n128k16", "f32.bf16.bf16", ", 0, 0");
  }
#endif
}

}  // namespace bido

#endif
