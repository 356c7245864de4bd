// SPDX-License-Identifier: Apache-2.0
//
// grad_x = (A - diag(A 1)) x of several variables in one launch; A x for the linear kernel.
//
// The row sums are those of the weights as the product takes them, so that a constant added to the features
// cancels as exactly as it does on paper.
#include <algorithm>

#include "group.h"
#include "operand_loaders.cuh"

namespace bido {
namespace {

struct WeightedArguments {
  FeatureGroup group;
  void* outs[kMostPerLaunch];
  int64_t places[kMostPerLaunch];  // of the weights
  const float* weights;            // [variables, rows, n]
  int64_t n, row_begin, rows;
  bool vectors;
};

// The block of the gradient from its sums: less the diagonal part, in the dtype of the features. All values
// that a group of entries needs are read before the first of them is written.
template <typename T, class Tile>
__device__ void write_block(const Tile& tile, const WeightedArguments& w, const Features& f,
                            const float* row_sums, int64_t i_begin, int64_t column_begin,
                            const float (&total)[Tile::kAccumulators]) {
  constexpr int kAtOnce = 8;
  const T* __restrict__ const x = static_cast<const T*>(f.x) + w.row_begin * f.stride;
  T* __restrict__ const out = static_cast<T*>(w.outs[blockIdx.y]) + w.row_begin * f.d;
  const bool diagonal = f.kind != KernelKind::linear;
#pragma unroll
  for (int first = 0; first < Tile::kAccumulators; first += kAtOnce) {
    float own[kAtOnce] = {};
    if (diagonal) {
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const Place place = tile.place(first + k);
        const int64_t i = i_begin + place.row, column = column_begin + place.column;
        if (i < w.rows && column < f.d)
          own[k] = static_cast<float>(x[i * f.stride + column]) - f.centers[column];
      }
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const Place place = tile.place(first + k);
      const int64_t i = i_begin + place.row, column = column_begin + place.column;
      if (Tile::Product::kPlanes == 1) own[k] = round_to_tf32(own[k]);
      const float value = total[first + k] - (diagonal ? row_sums[place.row] * own[k] : 0.0f);
      if (i < w.rows && column < f.d) out[i * f.d + column] = static_cast<T>(value);
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(kBlock, 1) weighted_product_kernel(WeightedArguments w) {
#ifdef BIDO_HAS_WGMMA
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = !Tile::kWgmma;
#endif
  if constexpr (kRuns) {
    using Product = typename Tile::Product;
    __shared__ float row_sums[Tile::kRowsA];
    const Features& f = w.group.v[blockIdx.y];
    const int64_t tiles_m = (w.rows + Tile::kRowsA - 1) / Tile::kRowsA;
    const int64_t tiles_n = (f.d + Tile::kRowsB - 1) / Tile::kRowsB;
    if (blockIdx.x >= tiles_m * tiles_n) return;
    const int64_t i_begin = blockIdx.x % tiles_m * Tile::kRowsA,
                  column_begin = blockIdx.x / tiles_m * Tile::kRowsB;
    const Tile tile;
    WeightRows<Product, Tile::kRowsA> a(w.weights + w.places[blockIdx.y] * w.rows * w.n, w.n, i_begin,
                                        w.rows - 1, w.n, w.vectors);
    TransposedFeatures<Product, Tile::kRowsB> b(f, column_begin, w.n);
    float total[Tile::kAccumulators] = {};
    block_product(tile, a, b, 0, w.n, false, total);
#pragma unroll
    for (int p = 0; p < a.kPasses; ++p) {
      const float sum = warp_sum(a.sums[p], kThreadsPerRow);
      if (threadIdx.x % kThreadsPerRow == 0) row_sums[a.row(p)] = sum;
    }
    __syncthreads();
    switch (f.type) {
      case FeatureType::float32:
        return write_block<float>(tile, w, f, row_sums, i_begin, column_begin, total);
      case FeatureType::half:
        return write_block<Half>(tile, w, f, row_sums, i_begin, column_begin, total);
      default:
        return write_block<BFloat16>(tile, w, f, row_sums, i_begin, column_begin, total);
    }
  }
}

template <class Product>
void launch_product(const char* op, const Tensor& like, const WeightedArguments& w, int64_t widest) {
  const auto run = [&](auto kernel, int64_t tile_rows, int64_t tile_columns, int bytes) {
    const int64_t blocks = ceil_div(w.rows, tile_rows) * ceil_div(widest, tile_columns);
    launch(op, like, kernel, dim3(static_cast<unsigned>(blocks), w.group.count), bytes, w);
  };
#if defined(BIDO_BUILT_FOR_SM90A) || defined(BIDO_EMULATED)
  if (major_capability(like) == 9 && w.rows > 64) {
    using Tile = WarpgroupTile<Product>;
    return run(weighted_product_kernel<Tile>, Tile::kRowsA, Tile::kRowsB, Tile::kSharedBytes);
  }
#endif
  using Tile = WarpTile<Product, 64, 128, 2>;
  run(weighted_product_kernel<Tile>, Tile::kRowsA, Tile::kRowsB, Tile::kSharedBytes);
}

}  // namespace

void weighted_products(const char* op, const Tensor& weights, const FeatureList& list,
                       const std::vector<Tensor>& outs, int64_t row_begin) {
  STD_TORCH_CHECK(weights.size(0) == list.count() && outs.size() == list.features.size(), op,
                  ": one matrix of weights per variable is needed");
  STD_TORCH_CHECK(weights.size(2) == list.n && row_begin + weights.size(1) <= list.n, op,
                  ": the weights must be of the rows of the features");
  WeightedArguments w{};
  w.weights = static_cast<const float*>(weights.const_data_ptr());
  w.rows = weights.size(1);
  w.n = weights.size(2);
  w.row_begin = row_begin;
  w.vectors = w.n % 4 == 0;
  int64_t widest = 0;
  for (int64_t k = 0, count = list.count(); k < count; ++k) {
    w.group.v[w.group.count] = list.features[k];
    w.outs[w.group.count] = outs[k].mutable_data_ptr();
    w.places[w.group.count++] = k;
    widest = std::max(widest, list.features[k].d);
    if (w.group.count < kMostPerLaunch && k + 1 < count) continue;
    if (list.features[0].tf32) {
      launch_product<Tf32Product>(op, weights, w, widest);
    } else {
      launch_product<Float32Product>(op, weights, w, widest);
    }
    w.group.count = 0;
    widest = 0;
  }
}

}  // namespace bido
