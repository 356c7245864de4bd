// SPDX-License-Identifier: Apache-2.0
//
// Gram matrices up to centering from features.
//
// Many samples: one block per tile on or above the diagonal, which writes its mirror image as well (or any
// tile, for the rectangular panels of the streaming regime). Few samples give few tiles but long rows: then
// the columns of all variables are shared among blocks in one launch, and a second launch adds up the partial
// products in a fixed order, takes the norms from the diagonal and writes K - 1 and its mirror image.
//
// An entry that has lost digits (common/resolution.h) is made again from differences, or becomes NaN. That
// does not fit beside the accumulators of a whole tile, and neither do the kernels with roots and powers:
// such tiles leave a mark or the distance, and a pass over them finishes the entries.
#include <algorithm>
#include <cmath>

#include "group.h"
#include "operand_loaders.cuh"
#include "ranges.cuh"

namespace bido {
namespace {

constexpr int kRowsOfTiles = 8;         // rows of tiles that share their columns in the second-level cache
constexpr int64_t kLeastColumns = 256;  // of a share: below, the sums cost more than the products
constexpr int kWaves = 2;               // blocks per multiprocessor to aim at

// What no entry is: it waits for its exact distance.
constexpr float kMark = 2;

// Entries that a tile of products makes itself.
__device__ inline bool made_in_tile(KernelKind kind) {
  return kind == KernelKind::gaussian || kind == KernelKind::linear ||
         kind == KernelKind::inverse_multiquadric;
}

// Without a switch: all of it lies beside the accumulators. kMark where is_doubtful() would say so, the
// distance for kernels that are not made here.
__device__ inline float tile_value(KernelKind kind, bool minus_one, float norm_i, float norm_j, float inner,
                                   float gamma) {
  if (kind == KernelKind::linear) return inner;
  const float distance = squared_distance(norm_i, norm_j, inner), both = norm_i + norm_j;
  const bool lost = distance < kLostDistance * both;
  if (kind == KernelKind::gaussian) {
    const float t = -gamma * distance;
    const float value = minus_one ? expm1_nonpositive(t) : exp_nonpositive(t);
    const float k = minus_one ? value + 1.0f : value;
    return gamma * (lost ? 1.0f : k) * both > kLargestAmplification || (lost && distance == 0) ? kMark
                                                                                               : value;
  }
  if (kind != KernelKind::inverse_multiquadric) return distance;
  const float value = inverse_multiquadric_entry(distance), k = value + 1.0f;
  return 0.5f * (lost ? 1.0f : k * k * k) * both > kLargestAmplification || (lost && distance == 0) ? kMark
                                                                                                    : value;
}

__device__ inline float entry_or_k(KernelKind kind, bool minus_one, float distance,
                                   KernelParameters<float> p) {
  return minus_one || kind == KernelKind::energy ? entry_of_distance(kind, distance, p)
                                                 : kernel_of_distance(kind, distance, p);
}

// From the differences of two rows. Where rows are far from the center and that near each other, their part
// of the gradient is lost as well; equal rows have none.
__device__ inline float exact_entry(const Features& f, bool minus_one, int64_t i, int64_t j, float both,
                                    KernelParameters<float> p) {
  float distance = 0;
  for (int64_t c = 0; c < f.d; ++c) {
    const float difference = one_feature(f, i, c) - one_feature(f, j, c);
    distance += difference * difference;
  }
  if (distance > 0 && distance < kNearest * both) return NAN;
  return entry_or_k(f.kind, minus_one, distance, p);
}

__device__ inline float entry_of_rows(const Features& f, bool minus_one, int64_t i, int64_t j, float norm_i,
                                      float norm_j, float inner, KernelParameters<float> p) {
  if (f.kind == KernelKind::linear) return inner;
  const float distance = squared_distance(norm_i, norm_j, inner), both = norm_i + norm_j;
  const float entry = entry_or_k(f.kind, minus_one, distance, p);
  if (is_doubtful(f.kind, entry, distance, both, p, minus_one ? 1.0f : 0.0f))
    return exact_entry(f, minus_one, i, j, both, p);
  return entry;
}

// The exact diagonal; finite - finite = 0, and NaN stays. Of the linear kernel the norm is the product
// itself.
__device__ inline float diagonal_value(KernelKind kind, bool minus_one, float norm) {
  if (kind == KernelKind::linear) return norm;
  return diagonal_minus_one(norm) + (minus_one ? 0.0f : 1.0f);
}

// The diagonals of products of rows with themselves, made as the entries of the Gram matrix are, so that what
// the tensor cores cut off cancels in a distance. [splits, n]: the columns are shared among blocks.
template <class Tile, template <class, int> class Rows>
__global__ void __launch_bounds__(kBlock, 1)
    squared_norms_kernel(Features f, const double* parameters, float* norms, int64_t n) {
#ifdef BIDO_HAS_WGMMA
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = !Tile::kWgmma;
#endif
  if constexpr (kRuns) {
    constexpr int64_t kDepth = Tile::Product::kDepth;
    static_assert(Tile::kRowsA == Tile::kRowsB);
    __shared__ float scratch[kBlock / kWarp];
    const float nan_or_zero = nan_if_out_of_range(f, parameters, scratch);
    const int64_t begin_row = static_cast<int64_t>(blockIdx.x) * Tile::kRowsA,
                  steps = (f.d + kDepth - 1) / kDepth;
    const int64_t begin = steps * blockIdx.y / gridDim.y * kDepth,
                  end = steps * (blockIdx.y + 1) / gridDim.y * kDepth;
    const Tile tile;
    Rows<typename Tile::Product, Tile::kRowsA> a(f, begin_row, n - 1);
    Rows<typename Tile::Product, Tile::kRowsB> b(f, begin_row, n - 1);
    float total[Tile::kAccumulators] = {};
    block_product(tile, a, b, begin, end < f.d ? end : f.d, true, total);
#pragma unroll
    for (int k = 0; k < Tile::kAccumulators; ++k) {
      const Place place = tile.place(k);
      if (place.row == place.column && begin_row + place.row < n)
        norms[blockIdx.y * n + begin_row + place.row] = total[k] + nan_or_zero;
    }
  }
}

__global__ void __launch_bounds__(kBlock)
    sum_splits_kernel(const float* parts, float* norms, int64_t n, int splits) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= n) return;
  float sum = 0;
  for (int k = 0; k < splits; ++k) sum += parts[k * n + i];
  norms[i] = sum;
}

struct PanelArguments {
  Features f;
  const float* norms;
  const double* parameters;
  Panel panel;
  bool symmetric;
};

template <class Tile, template <class, int> class Rows>
__global__ void __launch_bounds__(kBlock, 1) gram_panel_kernel(PanelArguments p) {
#ifdef BIDO_HAS_WGMMA
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = !Tile::kWgmma;
#endif
  if constexpr (kRuns) {
    const Panel& out = p.panel;
    const int64_t tiles_m = (out.rows + Tile::kRowsA - 1) / Tile::kRowsA;
    const int64_t tiles_n = (out.columns + Tile::kRowsB - 1) / Tile::kRowsB;
    const int64_t block = blockIdx.x, per_group = kRowsOfTiles * tiles_n,
                  first = block / per_group * kRowsOfTiles;
    const int64_t height = tiles_m - first < kRowsOfTiles ? tiles_m - first : kRowsOfTiles;
    const int64_t i_begin = (first + block % per_group % height) * Tile::kRowsA;
    const int64_t j_begin = block % per_group / height * Tile::kRowsB;
    // All of the tile below the diagonal: its mirror image is written instead.
    if (p.symmetric && j_begin + Tile::kRowsB <= i_begin) return;
    const int64_t i_first = out.row_begin + i_begin, j_first = out.column_begin + j_begin;
    const bool same =
        Tile::kRowsA == Tile::kRowsB && i_first == j_first;  // rows beyond the panel are read, too
    const Tile tile;
    Rows<typename Tile::Product, Tile::kRowsA> a(p.f, i_first, out.n - 1);
    Rows<typename Tile::Product, Tile::kRowsB> b(p.f, j_first, out.n - 1);
    float total[Tile::kAccumulators] = {};
    block_product(tile, a, b, 0, p.f.d, same, total);
    const float gamma = static_cast<float>(p.parameters[p.f.parameter]);
    const float* __restrict__ const norms = p.norms;
    const int64_t to_diagonal = j_first - i_first;
    bool any_marked = false;
    // All values first: then no write stands between the reads of the norms.
#pragma unroll
    for (int k = 0; k < Tile::kAccumulators; ++k) {
      const Place place = tile.place(k);
      const int64_t i = i_begin + place.row, j = j_begin + place.column;
      if (i >= out.rows || j >= out.columns) continue;
      const float norm_i = norms[out.row_begin + i], norm_j = norms[out.column_begin + j];
      total[k] = tile_value(p.f.kind, out.minus_one, norm_i, norm_j, total[k], gamma);
      if (to_diagonal + place.column == place.row) total[k] = diagonal_value(p.f.kind, out.minus_one, norm_i);
      any_marked = any_marked || total[k] == kMark;
    }
    if (any_marked && p.f.kind != KernelKind::linear && made_in_tile(p.f.kind)) *p.f.marked = 1;
#pragma unroll
    for (int k = 0; k < Tile::kAccumulators; ++k) {
      const Place place = tile.place(k);
      const int64_t i = i_begin + place.row, j = j_begin + place.column;
      if (i >= out.rows || j >= out.columns) continue;
      // One owner per entry of a symmetric matrix: both halves hold the same bits.
      if (p.symmetric && to_diagonal + place.column < place.row) continue;
      out.out[i * out.stride + j] = total[k];
      if (p.symmetric) out.out[j * out.stride + i] = total[k];
    }
  }
}

// The entries that the tiles have left: marked ones, and all of the kernels with roots and powers.
__global__ void __launch_bounds__(kBlock) finish_panel_kernel(const __grid_constant__ PanelArguments p) {
  const Features& f = p.f;
  const bool whole = !made_in_tile(f.kind);
  if (!whole && *f.marked == 0) return;
  const Panel& out = p.panel;
  const KernelParameters<float> own = parameters_of(f.kind, p.parameters + f.parameter);
  const int64_t count = out.rows * out.columns;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; k < count;
       k += static_cast<int64_t>(gridDim.x) * kBlock) {
    const int64_t i = out.row_begin + k / out.columns, j = out.column_begin + k % out.columns;
    float& entry = out.out[k / out.columns * out.stride + k % out.columns];
    if (i == j || (!whole && entry != kMark)) continue;
    const float distance = entry, both = p.norms[i] + p.norms[j];
    if (whole) {
      entry = entry_of_distance(f.kind, distance, own);
      if (!is_doubtful(f.kind, entry, distance, both, own)) continue;
    }
    entry = exact_entry(f, out.minus_one, i, j, both, own);
  }
}

struct SplitArguments {
  FeatureGroup group;
  int splits[kMostPerLaunch], offsets[kMostPerLaunch];
  const double* parameters;
  float* partial;  // [all splits, n, n], upper tiles
  float* out;      // [slots, n, n]
  int64_t n;
  bool minus_one;
};

template <class Tile, template <class, int> class Rows>
__global__ void __launch_bounds__(kBlock, 2) partial_products_kernel(SplitArguments s) {
  const Features& f = s.group.v[blockIdx.y];
  const int64_t splits = s.splits[blockIdx.y], tiles = (s.n + Tile::kRowsA - 1) / Tile::kRowsA;
  const int64_t pairs = upper_tile_count(tiles), split = blockIdx.x / pairs;
  if (split >= splits) return;
  const TileIndex index = upper_tile(blockIdx.x % pairs);
  const int64_t i_begin = index.row * Tile::kRowsA, j_begin = index.column * Tile::kRowsB;
  constexpr int64_t kDepth = Tile::Product::kDepth;
  const int64_t steps = (f.d + kDepth - 1) / kDepth;
  const int64_t begin = steps * split / splits * kDepth, end = steps * (split + 1) / splits * kDepth;
  const Tile tile;
  Rows<typename Tile::Product, Tile::kRowsA> a(f, i_begin, s.n - 1);
  Rows<typename Tile::Product, Tile::kRowsB> b(f, j_begin, s.n - 1);
  float total[Tile::kAccumulators] = {};
  block_product(tile, a, b, begin, end < f.d ? end : f.d, i_begin == j_begin, total);
  float* const out = s.partial + (s.offsets[blockIdx.y] + split) * s.n * s.n;
#pragma unroll
  for (int k = 0; k < Tile::kAccumulators; ++k) {
    const Place place = tile.place(k);
    const int64_t i = i_begin + place.row, j = j_begin + place.column;
    if (i < s.n && j < s.n) out[i * s.n + j] = total[k];
  }
}

// One entry on or above the diagonal per thread; entry (i, j) of 16 x 16 blocks of them.
__global__ void __launch_bounds__(kBlock) gram_of_products_kernel(const __grid_constant__ SplitArguments s) {
  __shared__ float scratch[kBlock / kWarp];
  const Features& f = s.group.v[blockIdx.y];
  const float nan_or_zero = nan_if_out_of_range(f, s.parameters, scratch);
  const TileIndex index = upper_tile(blockIdx.x);
  const int64_t i = index.row * 16 + threadIdx.x / 16, j = index.column * 16 + threadIdx.x % 16;
  if (i > j || j >= s.n) return;
  const float* products = s.partial + s.offsets[blockIdx.y] * s.n * s.n;
  float inner = 0, norm_i = nan_or_zero, norm_j = nan_or_zero;
#pragma unroll 4
  for (int k = 0; k < s.splits[blockIdx.y]; ++k, products += s.n * s.n) {
    inner += products[i * s.n + j];
    norm_i += products[i * (s.n + 1)];
    norm_j += products[j * (s.n + 1)];
  }
  const float value = i == j ? diagonal_value(f.kind, s.minus_one, norm_i)
                             : entry_of_rows(f, s.minus_one, i, j, norm_i, norm_j, inner,
                                             parameters_of(f.kind, s.parameters + f.parameter));
  float* const out = s.out + f.slot * s.n * s.n;
  out[i * s.n + j] = value;
  out[j * s.n + i] = value;
}

// Whether whole matrices would leave multiprocessors without work.
bool split_pays(int64_t n, int processors) { return upper_tile_count(ceil_div(n, 64)) < kWaves * processors; }

void split_grams(const char* op, const std::vector<Features>& features, const Tensor& parameters,
                 const Tensor& out, int64_t n, bool minus_one) {
  const int64_t pairs = upper_tile_count(ceil_div(n, 64));
  const double blocks = static_cast<double>(kWaves * multiprocessors(out)) / static_cast<double>(pairs);
  SplitArguments s{};
  s.n = n;
  s.minus_one = minus_one;
  s.parameters = static_cast<const double*>(parameters.const_data_ptr());
  s.out = static_cast<float*>(out.mutable_data_ptr());
  double width = 0;
  for (const Features& f : features) width += static_cast<double>(f.d);
  int64_t all = 0, most = 0;
  for (const Features& f : features) {
    const auto share = static_cast<int64_t>(std::lround(blocks * static_cast<double>(f.d) / width));
    const int64_t splits = std::max<int64_t>(1, std::min(ceil_div(f.d, kLeastColumns), share));
    s.splits[s.group.count] = static_cast<int>(splits);
    s.offsets[s.group.count] = static_cast<int>(all);
    s.group.v[s.group.count++] = f;
    all += splits;
    most = std::max(most, splits);
  }
  const Tensor partial = empty_like_with(out, {all, n, n}, ScalarType::Float);
  s.partial = static_cast<float*>(partial.mutable_data_ptr());
  const dim3 grid(static_cast<unsigned>(pairs * most), s.group.count);
  const auto run = [&](auto kernel, int bytes) { launch(op, out, kernel, grid, bytes, s); };
  switch (features[0].type) {
    case FeatureType::float32:
      if (features[0].tf32) {
        using Tile = WarpTile<Tf32Product, 64, 64, 2>;
        run(partial_products_kernel<Tile, FloatRows>, Tile::kSharedBytes);
      } else {
        using Tile = WarpTile<Float32Product, 64, 64, 2>;
        run(partial_products_kernel<Tile, FloatRows>, Tile::kSharedBytes);
      }
      break;
    case FeatureType::half: {
      using Tile = WarpTile<HalfProduct, 64, 64, 2>;
      run(partial_products_kernel<Tile, HalfRows>, Tile::kSharedBytes);
      break;
    }
    case FeatureType::bfloat16: {
      using Tile = WarpTile<BFloat16Product, 64, 64, 2>;
      run(partial_products_kernel<Tile, HalfRows>, Tile::kSharedBytes);
      break;
    }
  }
  launch(op, out, gram_of_products_kernel,
         dim3(static_cast<unsigned>(upper_tile_count(ceil_div(n, 16))), s.group.count), 0, s);
}

template <class Product, template <class, int> class Rows>
void launch_panel(const char* op, const Tensor& like, const PanelArguments& p) {
  const auto run = [&](auto kernel, int64_t tile_rows, int64_t tile_columns, int bytes) {
    const int64_t blocks = ceil_div(p.panel.rows, tile_rows) * ceil_div(p.panel.columns, tile_columns);
    launch(op, like, kernel, dim3(static_cast<unsigned>(blocks)), bytes, p);
  };
#if defined(BIDO_BUILT_FOR_SM90A) || defined(BIDO_EMULATED)
  if (major_capability(like) == 9) {
    using Tile = WarpgroupTile<Product>;
    return run(gram_panel_kernel<Tile, Rows>, Tile::kRowsA, Tile::kRowsB, Tile::kSharedBytes);
  }
#endif
  using Tile = WarpTile<Product, 128, 64, 4>;
  run(gram_panel_kernel<Tile, Rows>, Tile::kRowsA, Tile::kRowsB, Tile::kSharedBytes);
}

template <class Product, template <class, int> class Rows>
Tensor norms_by_products(const char* op, const Features& f, const Tensor& like, int64_t n) {
  Tensor norms = empty_like_with(like, {n}, ScalarType::Float);
  const double* const parameters = static_cast<const double*>(like.const_data_ptr());
  const auto run = [&](auto kernel, int64_t tile_rows, int bytes) {
    const int64_t blocks = ceil_div(n, tile_rows);
    const int64_t splits = std::max<int64_t>(
        1, std::min(ceil_div(f.d, kLeastColumns), static_cast<int64_t>(multiprocessors(like)) / blocks));
    Tensor parts = splits == 1 ? norms : empty_like_with(like, {splits, n}, ScalarType::Float);
    float* const target = static_cast<float*>(parts.mutable_data_ptr());
    launch(op, like, kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(splits)), bytes, f,
           parameters, target, n);
    if (splits > 1)
      launch(op, like, sum_splits_kernel, dim3(static_cast<unsigned>(ceil_div(n, kBlock))), 0,
             static_cast<const float*>(target), static_cast<float*>(norms.mutable_data_ptr()), n,
             static_cast<int>(splits));
  };
#if defined(BIDO_BUILT_FOR_SM90A) || defined(BIDO_EMULATED)
  if (major_capability(like) == 9) {
    using Tile = WarpgroupTile<Product>;
    run(squared_norms_kernel<Tile, Rows>, Tile::kRowsA, Tile::kSharedBytes);
    return norms;
  }
#endif
  using Tile = WarpTile<Product, 64, 64, 2>;
  run(squared_norms_kernel<Tile, Rows>, Tile::kRowsA, Tile::kSharedBytes);
  return norms;
}

}  // namespace

Tensor squared_norms(const char* op, const Features& f, const Tensor& parameters, int64_t n) {
  switch (f.type) {
    case FeatureType::float32:
      return f.tf32 ? norms_by_products<Tf32Product, FloatRows>(op, f, parameters, n)
                    : norms_by_products<Float32Product, FloatRows>(op, f, parameters, n);
    case FeatureType::half:
      return norms_by_products<HalfProduct, HalfRows>(op, f, parameters, n);
    default:
      return norms_by_products<BFloat16Product, HalfRows>(op, f, parameters, n);
  }
}

void gram_panel(const char* op, const Features& f, const Tensor& norms, const Tensor& parameters,
                const Panel& panel) {
  const bool whole = panel.rows == panel.n && panel.columns == panel.n;
  const PanelArguments p{f, static_cast<const float*>(norms.const_data_ptr()),
                         static_cast<const double*>(parameters.const_data_ptr()), panel, whole};
  switch (f.type) {
    case FeatureType::float32:
      if (f.tf32) {
        launch_panel<Tf32Product, FloatRows>(op, norms, p);
      } else {
        launch_panel<Float32Product, FloatRows>(op, norms, p);
      }
      break;
    case FeatureType::half:
      launch_panel<HalfProduct, HalfRows>(op, norms, p);
      break;
    case FeatureType::bfloat16:
      launch_panel<BFloat16Product, HalfRows>(op, norms, p);
      break;
  }
  if (f.kind == KernelKind::linear) return;
  const int64_t blocks = std::min(ceil_div(panel.rows * panel.columns, kBlock),
                                  8 * std::max<int64_t>(1, multiprocessors(norms)));
  launch(op, norms, finish_panel_kernel, dim3(static_cast<unsigned>(blocks)), 0, p);
}

void fill_grams(const char* op, const FeatureList& list, const Tensor& parameters, const Tensor& out,
                bool minus_one) {
  const int64_t n = list.n;
  for (const FeatureType type : {FeatureType::float32, FeatureType::half, FeatureType::bfloat16}) {
    std::vector<Features> same;
    for (const Features& f : list.features)
      if (f.type == type) same.push_back(f);
    if (split_pays(n, multiprocessors(out))) {
      for (size_t begin = 0; begin < same.size(); begin += kMostPerLaunch) {
        const auto last = std::min(same.size(), begin + kMostPerLaunch);
        split_grams(op, {same.begin() + begin, same.begin() + last}, parameters, out, n, minus_one);
      }
    } else {
      for (const Features& f : same) {
        float* const target = static_cast<float*>(out.mutable_data_ptr()) + f.slot * n * n;
        gram_panel(op, f, squared_norms(op, f, parameters, n), parameters,
                   {target, n, n, 0, n, 0, n, minus_one});
      }
    }
  }
}

}  // namespace bido
