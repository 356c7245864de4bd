// SPDX-License-Identifier: Apache-2.0
//
// Loaders fill one operand of a product tile: load() starts the reads of one step from global memory into
// registers, store() changes what has come and writes it, K-major and swizzled, to shared memory.
#pragma once

#include "features.cuh"
#include "product_tile.cuh"

namespace bido {

constexpr int kThreadsPerRow = kChunks, kRowsPerPass = kBlock / kThreadsPerRow;

// Four numbers to chunk `chunk` of a row: rounded to TF32, or split into two planes.
template <int kPlanes>
__device__ inline void store_chunk(char* tile, int plane_bytes, int row, int chunk, float4 v) {
  char* const place = tile + chunk_offset(row, chunk);
  if constexpr (kPlanes == 2) {
    const SplitFloat x = split_for_tf32(v.x), y = split_for_tf32(v.y), z = split_for_tf32(v.z),
                     w = split_for_tf32(v.w);
    *reinterpret_cast<float4*>(place) = make_float4(x.high, y.high, z.high, w.high);
    *reinterpret_cast<float4*>(place + plane_bytes) = make_float4(x.low, y.low, z.low, w.low);
  } else {
    *reinterpret_cast<float4*>(place) =
        make_float4(round_to_tf32(v.x), round_to_tf32(v.y), round_to_tf32(v.z), round_to_tf32(v.w));
  }
}

// Rows of float32 features, centered. Rows beyond the last one repeat it; nobody uses them.
template <class Product, int kRows>
struct FloatRows {
  static constexpr int kPasses = kRows / kRowsPerPass;
  const Features& f;
  int64_t row_begin, row_last;
  float4 x[kPasses], center;

  __device__ FloatRows(const Features& features, int64_t first, int64_t last)
      : f(features), row_begin(first), row_last(last) {}
  __device__ int row(int pass) const {
    return static_cast<int>(threadIdx.x) / kThreadsPerRow + pass * kRowsPerPass;
  }
  __device__ void load(int64_t column) {
    column += threadIdx.x % kThreadsPerRow * 4;
    center = column < f.d ? load_vector<float4>(f.centers + column) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int64_t i = row_begin + row(p);
      x[p] = four_floats(f, i < row_last ? i : row_last, column);
    }
  }
  __device__ void store(char* tile, int plane_bytes) const {
#pragma unroll
    for (int p = 0; p < kPasses; ++p)
      store_chunk<Product::kPlanes>(
          tile, plane_bytes, row(p), threadIdx.x % kThreadsPerRow,
          make_float4(x[p].x - center.x, x[p].y - center.y, x[p].z - center.z, x[p].w - center.w));
  }
};

// Rows of half-precision features, bit by bit as they are.
template <class Product, int kRows>
struct HalfRows {
  static constexpr int kPasses = kRows / kRowsPerPass;
  const Features& f;
  int64_t row_begin, row_last;
  uint4 x[kPasses];

  __device__ HalfRows(const Features& features, int64_t first, int64_t last)
      : f(features), row_begin(first), row_last(last) {}
  __device__ int row(int pass) const {
    return static_cast<int>(threadIdx.x) / kThreadsPerRow + pass * kRowsPerPass;
  }
  __device__ void load(int64_t column) {
    column += threadIdx.x % kThreadsPerRow * 8;
    const uint16_t* const source = static_cast<const uint16_t*>(f.x);
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int64_t i = row_begin + row(p);
      const int64_t at = (i < row_last ? i : row_last) * f.stride + column;
      if (f.vectors && column + 8 <= f.d) {
        x[p] = load_vector<uint4>(source + at);
      } else {
        uint32_t pairs[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint32_t low = column + 2 * k < f.d ? source[at + 2 * k] : 0;
          const uint32_t high = column + 2 * k + 1 < f.d ? source[at + 2 * k + 1] : 0;
          pairs[k] = low | high << 16;
        }
        x[p] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
  __device__ void store(char* tile, int) const {
#pragma unroll
    for (int p = 0; p < kPasses; ++p)
      *reinterpret_cast<uint4*>(tile + chunk_offset(row(p), threadIdx.x % kThreadsPerRow)) = x[p];
  }
};

// Rows of a matrix of weights (n columns), with the sum of each row as the product takes it.
template <class Product, int kRows>
struct WeightRows {
  static constexpr int kPasses = kRows / kRowsPerPass;
  const float* weights;
  int64_t stride, row_begin, row_last, n;
  bool vectors;
  float4 x[kPasses];
  float sums[kPasses] = {};

  __device__ WeightRows(const float* w, int64_t w_stride, int64_t first, int64_t last, int64_t columns,
                        bool aligned)
      : weights(w), stride(w_stride), row_begin(first), row_last(last), n(columns), vectors(aligned) {}
  __device__ int row(int pass) const {
    return static_cast<int>(threadIdx.x) / kThreadsPerRow + pass * kRowsPerPass;
  }
  __device__ void load(int64_t column) {
    column += threadIdx.x % kThreadsPerRow * 4;
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int64_t i = row_begin + row(p);
      const float* const source = weights + (i < row_last ? i : row_last) * stride + column;
      if (vectors && column + 4 <= n) {
        x[p] = load_vector<float4>(source);
      } else {
        x[p] = make_float4(column < n ? source[0] : 0, column + 1 < n ? source[1] : 0,
                           column + 2 < n ? source[2] : 0, column + 3 < n ? source[3] : 0);
      }
    }
  }
  __device__ void store(char* tile, int plane_bytes) {
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      if constexpr (Product::kPlanes == 2) {
        sums[p] += (x[p].x + x[p].y) + (x[p].z + x[p].w);
      } else {
        sums[p] +=
            (round_to_tf32(x[p].x) + round_to_tf32(x[p].y)) + (round_to_tf32(x[p].z) + round_to_tf32(x[p].w));
      }
      store_chunk<Product::kPlanes>(tile, plane_bytes, row(p), threadIdx.x % kThreadsPerRow, x[p]);
    }
  }
};

// Features transposed: rows of the tile are columns of x, its depth the samples. A thread turns blocks of
// 4 samples x 4 columns; four lanes read 64 bytes of a row together.
template <class Product, int kColumns>
struct TransposedFeatures {
  static constexpr int kActive = kColumns * 2;  // threads: kColumns / 4 groups x 8 groups of samples
  static_assert(kActive == kBlock);
  const Features& f;
  int64_t column, n;
  int group, samples, left;
  float4 center;
  uint4 raw[4];  // four float32 or, in two words, half-precision features of a sample each

  __device__ TransposedFeatures(const Features& features, int64_t column_begin, int64_t rows)
      : f(features), n(rows), left(0) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    group = lane % 4 + static_cast<int>(threadIdx.x) / kWarp * 4;
    samples = (lane / 4) ^ (lane & 2);  // eight lanes then write to eight different chunk places
    column = column_begin + group * 4;
    center = column < f.d ? load_vector<float4>(f.centers + column) : make_float4(0, 0, 0, 0);
  }
  // Samples beyond the last one repeat it; store() makes zeros of them.
  __device__ void load(int64_t sample) {
    const int64_t first = sample + samples * 4, rest = n - first;
    left = column >= f.d ? 0 : rest < 4 ? static_cast<int>(rest) : 4;
    const int64_t at = column < f.d ? column : 0;
    if (f.type == FeatureType::float32) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const float4 v = four_floats(f, first + q < n ? first + q : n - 1, at);
        raw[q] = *reinterpret_cast<const uint4*>(&v);
      }
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const uint2 v = four_halves(f, first + q < n ? first + q : n - 1, at);
        raw[q] = make_uint4(v.x, v.y, 0, 0);
      }
    }
  }
  __device__ void store(char* tile, int plane_bytes) const {
    float4 x[4];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const float4 v = f.type == FeatureType::float32 ? *reinterpret_cast<const float4*>(&raw[q])
                                                      : widened(f.type, make_uint2(raw[q].x, raw[q].y));
      x[q] = q < left ? make_float4(v.x - center.x, v.y - center.y, v.z - center.z, v.w - center.w)
                      : make_float4(0, 0, 0, 0);
    }
    constexpr int kPlanes = Product::kPlanes;
    store_chunk<kPlanes>(tile, plane_bytes, group * 4, samples, make_float4(x[0].x, x[1].x, x[2].x, x[3].x));
    store_chunk<kPlanes>(tile, plane_bytes, group * 4 + 1, samples,
                         make_float4(x[0].y, x[1].y, x[2].y, x[3].y));
    store_chunk<kPlanes>(tile, plane_bytes, group * 4 + 2, samples,
                         make_float4(x[0].z, x[1].z, x[2].z, x[3].z));
    store_chunk<kPlanes>(tile, plane_bytes, group * 4 + 3, samples,
                         make_float4(x[0].w, x[1].w, x[2].w, x[3].w));
  }
};

}  // namespace bido
