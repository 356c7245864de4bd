// SPDX-License-Identifier: Apache-2.0
//
// One block of a product, C += A B', by the tensor cores: a pipeline from global memory through registers,
// where operands are centered, rounded and split, into swizzled tiles in shared memory (operand_tile.h), and
// from there into mma.sync or wgmma. Both operands lie K-major; who fills them is a loader
// (operand_loaders.cuh). Features have to be changed on their way in, which is why they pass through
// registers and not through the bulk copy engine.
#pragma once

#include "../common/operand_tile.h"
#include "device.cuh"
#include "matrix_instructions.cuh"

namespace bido {

// float32: three TF32 products of split operands, float32 accuracy. tf32, half, bfloat16: one product.
struct Float32Product {
  static constexpr Element kElement = Element::tf32;
  static constexpr int kPlanes = 2;
  static constexpr int kDepth = 32;
};
struct Tf32Product {
  static constexpr Element kElement = Element::tf32;
  static constexpr int kPlanes = 1;
  static constexpr int kDepth = 32;
};
struct HalfProduct {
  static constexpr Element kElement = Element::half;
  static constexpr int kPlanes = 1;
  static constexpr int kDepth = 64;
};
struct BFloat16Product {
  static constexpr Element kElement = Element::bfloat16;
  static constexpr int kPlanes = 1;
  static constexpr int kDepth = 64;
};

static_assert(kSharedAlignment % kTileAlignment == 0);

// A stage of the pipeline in shared memory: planes of A, then planes of B.
template <class Product, int kRowsA, int kRowsB>
struct Stage {
  static constexpr int kPlaneA = kRowsA * kRowBytes, kPlaneB = kRowsB * kRowBytes;
  static constexpr int kBytes = Product::kPlanes * (kPlaneA + kPlaneB);
  char* start;
  __device__ char* a(int plane) const { return start + plane * kPlaneA; }
  __device__ char* b(int plane) const { return start + Product::kPlanes * kPlaneA + plane * kPlaneB; }
};

// mma.sync: eight warps of 32 x 32 (or less) each.
template <class ProductKind, int kRowsOfA, int kRowsOfB, int kWarpsM>
struct WarpTile {
  using Product = ProductKind;
  static constexpr int kRowsA = kRowsOfA, kRowsB = kRowsOfB, kStages = 2;
  static constexpr int kWarpsN = kBlock / kWarp / kWarpsM;
  static constexpr int kWarpRows = kRowsA / kWarpsM, kWarpColumns = kRowsB / kWarpsN;
  static constexpr int kM = kWarpRows / 16, kN = kWarpColumns / 8;
  static_assert(kM * 16 == kWarpRows && kN % 2 == 0 && kN * 8 == kWarpColumns);
  static constexpr int kAccumulators = kM * kN * 4;
  static constexpr bool kWgmma = false;
  static constexpr int kStepsPerSum = 1;
  using StageOf = Stage<Product, kRowsA, kRowsB>;
  static constexpr int kSharedBytes = kStages * StageOf::kBytes + kSharedAlignment;
  // With a number per row, as weighted_product.cu has beside the tile.
  static_assert(kSharedBytes + kRowsA * static_cast<int>(sizeof(float)) <= kSharedEverywhere);

  int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;

  __device__ Place place(int index) const {
    const int m = index / (kN * 4), n = index / 4 % kN;
    const Place p = accumulator_place(lane, index % 4);
    return {warp / kWarpsN * kWarpRows + m * 16 + p.row, warp % kWarpsN * kWarpColumns + n * 8 + p.column};
  }

  // Fragments of 16 rows (or 2 x 8 rows of B) over 32 bytes of depth, by one ldmatrix.
  __device__ void load_a(uint32_t (&out)[4], const char* tile, int m, int slice) const {
    const int row = warp / kWarpsN * kWarpRows + m * 16 + lane % 16;
    load_matrices(out, shared_address(tile + chunk_offset(row, 2 * slice + lane / 16)));
  }
  __device__ void load_b(uint32_t (&out)[4], const char* tile, int n, int slice) const {
    const int row = warp % kWarpsN * kWarpColumns + n * 8 + lane % 8 + lane / 16 * 8;
    load_matrices(out, shared_address(tile + chunk_offset(row, 2 * slice + lane / 8 % 2)));
  }

  // `fresh`: the accumulators start at zero.
  __device__ void issue(float (&acc)[kAccumulators], const StageOf& stage, bool b_is_a, bool fresh) const {
    if (fresh)
#pragma unroll
      for (float& value : acc) value = 0;
    // The small terms of a whole step first: what is then cut off at full size is cut off least often.
    if constexpr (Product::kPlanes == 2) {
      add_products(acc, stage, b_is_a, 0, 1);
      add_products(acc, stage, b_is_a, 1, 0);
    }
    add_products(acc, stage, b_is_a, 0, 0);
  }

  // Of one plane of A and one of B.
  __device__ void add_products(float (&acc)[kAccumulators], const StageOf& stage, bool b_is_a, int plane_a,
                               int plane_b) const {
    auto& c = reinterpret_cast<float (&)[kM][kN][4]>(acc);
    const char* const tile_b = b_is_a ? stage.a(plane_b) : stage.b(plane_b);
#pragma unroll Product::kPlanes == 2 ? 2 : 4
    for (int slice = 0; slice < kRowBytes / 32; ++slice) {
      uint32_t a[kM][4], b[kN / 2][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) load_a(a[m], stage.a(plane_a), m, slice);
#pragma unroll
      for (int n = 0; n < kN / 2; ++n) load_b(b[n], tile_b, 2 * n, slice);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) multiply<Product::kElement>(c[m][n], a[m], &b[n / 2][n % 2 * 2]);
      }
    }
  }
  __device__ void after_store() const {}
  __device__ void wait_previous() const {}
  __device__ void wait_all(float (&)[kAccumulators]) const {}
};

// wgmma on sm_90a: two warpgroups of 64 x 128 each. Three stages, so that one barrier a step is enough: the
// stage being written was read two steps ago.
template <class ProductKind>
struct WarpgroupTile {
  using Product = ProductKind;
  static constexpr int kRowsA = 128, kRowsB = 128, kStages = 3;
  static constexpr int kAccumulators = 64;
  static constexpr bool kWgmma = true;
  static constexpr int kStepsPerSum = Product::kPlanes == 2 ? 1 : 8;  // each sum ends with a wait
  using StageOf = Stage<Product, kRowsA, kRowsB>;
  static constexpr int kSharedBytes = kStages * StageOf::kBytes + kSharedAlignment;
  static_assert(kSharedBytes + kRowsA * static_cast<int>(sizeof(float)) <= kSharedOnHopper);

  int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;

  __device__ Place place(int index) const {
    const Place p = accumulator_place(lane, index % 4);
    return {warp * 16 + p.row, index / 4 * 8 + p.column};
  }

  // Nothing but wgmma may touch the accumulators while products run: a fresh sum is told to the first of
  // them.
  __device__ void issue(float (&acc)[kAccumulators], const StageOf& stage, bool b_is_a, bool fresh) const {
    begin_wgmma();
    // The small terms of a whole step first: what is then cut off at full size is cut off least often.
    if constexpr (Product::kPlanes == 2) {
      add_products(acc, stage, b_is_a, 0, 1, fresh);
      add_products(acc, stage, b_is_a, 1, 0, false);
      add_products(acc, stage, b_is_a, 0, 0, false);
    } else {
      add_products(acc, stage, b_is_a, 0, 0, fresh);
    }
    commit_wgmma();
  }

  // Of one plane of A and one of B.
  __device__ void add_products(float (&acc)[kAccumulators], const StageOf& stage, bool b_is_a, int plane_a,
                               int plane_b, bool fresh) const {
    const char* const rows = stage.a(plane_a) + warp / 4 * 64 * kRowBytes;
    const char* const columns = b_is_a ? stage.a(plane_b) : stage.b(plane_b);
#pragma unroll
    for (int slice = 0; slice < kRowBytes / 32; ++slice)
      multiply_wgmma<Product::kElement>(acc, tile_descriptor(shared_address(rows) + slice * 32),
                                        tile_descriptor(shared_address(columns) + slice * 32),
                                        slice > 0 || !fresh);
  }
  __device__ void after_store() const { fence_shared_for_wgmma(); }
  __device__ void wait_previous() const { wait_wgmma<1>(); }
  __device__ void wait_all(float (&acc)[kAccumulators]) const {
    wait_wgmma<0>();
    now_readable(acc);
  }
};

// total += A B' over entries begin..end of the summed dimension. `b_is_a`: both operands are the same rows.
// The tensor cores cut off what they add up, always towards zero, so that long sums of one sign fall short:
// after kStepsPerSum steps (12 to 32 instructions) their sum goes to a register of its own, which rounds.
// Ends with a barrier: shared memory is free again.
template <class Tile, class LoaderA, class LoaderB>
__device__ void block_product(const Tile& tile, LoaderA& a, LoaderB& b, int64_t begin, int64_t end,
                              bool b_is_a, float (&total)[Tile::kAccumulators]) {
  using Product = typename Tile::Product;
  using StageOf = typename Tile::StageOf;
  char* const shared = dynamic_shared_memory();
  const auto stage = [&](int k) { return StageOf{shared + k % Tile::kStages * StageOf::kBytes}; };
  const auto load = [&](int k) {
    a.load(begin + static_cast<int64_t>(k) * Product::kDepth);
    if (!b_is_a) b.load(begin + static_cast<int64_t>(k) * Product::kDepth);
  };
  const auto store = [&](int k) {
    const StageOf s = stage(k);
    a.store(s.a(0), StageOf::kPlaneA);
    if (!b_is_a) b.store(s.b(0), StageOf::kPlaneB);
  };
  const int steps = static_cast<int>((end - begin + Product::kDepth - 1) / Product::kDepth);
  if (steps <= 0) return;
  float acc[Tile::kAccumulators];
  load(0);
  store(0);
  tile.after_store();
  if (steps > 1) load(1);
  // Two loops, so that no accumulator is read while products of the inner one may still run.
  for (int first = 0; first < steps; first += Tile::kStepsPerSum) {
    const int last = first + Tile::kStepsPerSum < steps ? first + Tile::kStepsPerSum : steps;
    for (int k = first; k < last; ++k) {
      __syncthreads();
      tile.issue(acc, stage(k), b_is_a, k == first);
      if (k + 1 < steps) {
        tile.wait_previous();
        store(k + 1);
        tile.after_store();
        if (k + 2 < steps) load(k + 2);
      }
    }
    tile.wait_all(acc);
#pragma unroll
    for (int i = 0; i < Tile::kAccumulators; ++i) total[i] += acc[i];
  }
  __syncthreads();
}

}  // namespace bido
