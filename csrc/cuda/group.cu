// SPDX-License-Identifier: Apache-2.0
//
// Checks of a group, and the centers of its features: subtracting them leaves distances and centered matrices
// unchanged and saves digits. A center is the median of a few rows, column by column: no outlier moves it,
// the difference to it is exact where there is an offset, and constant features become exact zeros. One
// launch for a group; it also looks how far features lie from their centers, which tells whether float32
// holds their squares (ranges.cuh). The linear kernel has the mean, as its matrix is not one of distances,
// except in columns where an outlier moves that.
#include <algorithm>

#include "group.h"
#include "ranges.cuh"

namespace bido {
namespace {

constexpr int kCenterColumns = 32, kCenterLanes = kBlock / kCenterColumns;
constexpr int kCenterRows = 9;  // rows whose median is the center
constexpr int64_t kRowsPerSegment = 1024;
constexpr int64_t kMostRowsOfFeatures = 65535 * kRowsPerSegment;  // a grid has at most 65,535 segments

struct CentersGroup {
  FeatureGroup group;
  float* centers[kMostPerLaunch];
  float4* ranges[kMostPerLaunch];  // [segments, blocks of columns]
  // Of linear kernels with many rows: [segments + 1, padded] sums of the differences to the centers, spreads
  // last.
  float* sums[kMostPerLaunch];
  int64_t padded[kMostPerLaunch];
  int64_t n;
};

// What lies between the center of a column and its mean, unless outliers make it.
constexpr float kFarthestMean = 3;  // in spreads
__device__ inline float to_mean(float sum, int64_t n, float spread) {
  const float difference = sum / static_cast<float>(n);
  return std::fabs(difference) <= kFarthestMean * spread ? difference : 0.0f;
}

// In ascending order; NaN anywhere.
__device__ inline void sort(float (&v)[kCenterRows]) {
#pragma unroll
  for (int k = 1; k < kCenterRows; ++k) {
#pragma unroll
    for (int i = k; i > 0; --i) {
      const float low = v[i] < v[i - 1] ? v[i] : v[i - 1], high = v[i] < v[i - 1] ? v[i - 1] : v[i];
      v[i - 1] = low;
      v[i] = high;
    }
  }
}

__global__ void __launch_bounds__(kBlock) centers_kernel(const __grid_constant__ CentersGroup g) {
  __shared__ float scratch[kBlock / kWarp], partial[kCenterLanes][kCenterColumns];
  const Features& f = g.group.v[blockIdx.y];
  const int64_t padded = g.padded[blockIdx.y];
  if (static_cast<int64_t>(blockIdx.x) * kCenterColumns >= padded) return;  // the whole block
  const int lane = threadIdx.x % kCenterColumns, row_lane = threadIdx.x / kCenterColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kCenterColumns + lane;
  float center = 0, spread = 0, largest = 0, sum = 0;
  if (column < f.d) {
    float sample[kCenterRows];
#pragma unroll
    for (int k = 0; k < kCenterRows; ++k) sample[k] = one_feature(f, g.n * k / kCenterRows, column);
    sort(sample);
    center = sample[kCenterRows / 2];
#pragma unroll
    for (int k = 0; k < kCenterRows; ++k) sample[k] = std::fabs(sample[k] - center);
    sort(sample);
    spread = sample[kCenterRows * 2 / 3];
    const int64_t first = static_cast<int64_t>(blockIdx.z) * kRowsPerSegment;
    const int64_t last = first + kRowsPerSegment < g.n ? first + kRowsPerSegment : g.n;
    for (int64_t i = first + row_lane; i < last; i += kCenterLanes) {
      const float difference = one_feature(f, i, column) - center, size = std::fabs(difference);
      sum += difference;
      largest = size > largest ? size : largest;
    }
  }
  partial[row_lane][lane] = sum;
  __syncthreads();
  if (row_lane == 0 && column < padded) {
    float mean = center;
    if (f.kind == KernelKind::linear) {
      for (int r = 1; r < kCenterLanes; ++r) sum += partial[r][lane];
      if (gridDim.z == 1) {
        mean += to_mean(sum, g.n, spread);
      } else {
        g.sums[blockIdx.y][blockIdx.z * padded + column] = sum;
        if (blockIdx.z == 0) g.sums[blockIdx.y][gridDim.z * padded + column] = spread;
      }
    }
    if (blockIdx.z == 0) g.centers[blockIdx.y][column] = mean;
  }
  largest = block_max(largest, scratch);
  const float offset = block_sum(row_lane == 0 ? center * center : 0.0f, scratch);
  spread = block_sum(row_lane == 0 ? spread * spread : 0.0f, scratch);
  if (threadIdx.x == 0) {
    const int64_t blocks = padded / kCenterColumns;
    g.ranges[blockIdx.y][blockIdx.z * blocks + blockIdx.x] = make_float4(largest, offset, spread, 0);
    if (blockIdx.x == 0 && blockIdx.z == 0) *f.marked = 0;
  }
}

// From the centers to the means.
__global__ void __launch_bounds__(kBlock)
    add_means_kernel(const float* sums, float* centers, int64_t padded, int64_t segments, int64_t n) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (column >= padded) return;
  float sum = 0;
  for (int64_t s = 0; s < segments; ++s) sum += sums[s * padded + column];
  centers[column] += to_mean(sum, n, sums[segments * padded + column]);
}

// The parts of one variable to one.
__global__ void __launch_bounds__(kBlock) join_ranges_kernel(const float4* parts, int count, float4* out) {
  __shared__ float scratch[kBlock / kWarp];
  const float4 all = joined_ranges(parts, count, scratch);
  if (threadIdx.x == 0) *out = all;
}

__global__ void __launch_bounds__(kBlock)
    label_gram_kernel(const int64_t* labels, const double* scale, float* out, int64_t n) {
  const int64_t i = blockIdx.x;
  const auto value = static_cast<float>(*scale);
  for (int64_t j = threadIdx.x; j < n; j += kBlock) out[i * n + j] = labels[i] == labels[j] ? value : 0.0f;
}

FeatureType feature_type(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return FeatureType::float32;
    case ScalarType::Half:
      return FeatureType::half;
    case ScalarType::BFloat16:
      return FeatureType::bfloat16;
    default:
      STD_TORCH_CHECK(false, op, ": the CUDA kernels take float32, bfloat16 and float16 features");
  }
}

int64_t padded_width(int64_t d) { return ceil_div(d, kCentersPadding) * kCentersPadding; }

void fill_centers(const char* op, FeatureList& list, const std::vector<int64_t>* only) {
  const int64_t segments = ceil_div(list.n, kRowsPerSegment);
  CentersGroup g{};
  g.n = list.n;
  std::vector<Tensor> parts;
  std::vector<int64_t> places;
  int64_t widest = 0;
  const auto flush = [&] {
    if (g.group.count == 0) return;
    const dim3 grid(static_cast<unsigned>(widest / kCenterColumns), g.group.count,
                    static_cast<unsigned>(segments));
    launch(op, list.tensors[0], centers_kernel, grid, 0, g);
    for (int k = 0; segments > 1 && k < g.group.count; ++k) {
      launch(op, list.tensors[0], join_ranges_kernel, dim3(1), 0, static_cast<const float4*>(g.ranges[k]),
             static_cast<int>(segments * (g.padded[k] / kCenterColumns)),
             const_cast<float4*>(list.features[places[k]].ranges));
      if (g.sums[k])
        launch(op, list.tensors[0], add_means_kernel,
               dim3(static_cast<unsigned>(ceil_div(g.padded[k], kBlock))), 0,
               static_cast<const float*>(g.sums[k]), g.centers[k], g.padded[k], segments, list.n);
    }
    g.group.count = 0;
    widest = 0;
    places.clear();
  };
  for (int64_t k = 0, count = list.count(); k < count; ++k) {
    Features& f = list.features[k];
    if (only && std::find(only->begin(), only->end(), list.index[k]) == only->end()) continue;
    const int64_t padded = padded_width(f.d), blocks = padded / kCenterColumns;
    f.range_count = static_cast<int>(segments > 1 ? 1 : blocks);
    // Ranges first: they are aligned, and so are the centers, a multiple of four numbers after them.
    const Tensor kept = empty_like_with(list.tensors[k], {4 * f.range_count + padded + 1}, ScalarType::Float);
    float* const numbers = static_cast<float*>(kept.mutable_data_ptr());
    float4* const ranges = reinterpret_cast<float4*>(numbers);
    f.ranges = ranges;
    f.centers = numbers + 4 * f.range_count;
    f.marked = numbers + 4 * f.range_count + padded;
    list.tensors.push_back(kept);
    const int place = g.group.count++;
    g.group.v[place] = f;
    g.padded[place] = padded;
    g.centers[place] = numbers + 4 * f.range_count;
    g.ranges[place] = ranges;
    if (segments > 1) {
      parts.push_back(empty_like_with(kept, {4 * segments * blocks}, ScalarType::Float));
      g.ranges[place] = static_cast<float4*>(parts.back().mutable_data_ptr());
    }
    g.sums[place] = nullptr;
    if (segments > 1 && f.kind == KernelKind::linear) {
      parts.push_back(empty_like_with(kept, {(segments + 1) * padded}, ScalarType::Float));
      g.sums[place] = static_cast<float*>(parts.back().mutable_data_ptr());
    }
    places.push_back(k);
    widest = std::max(widest, padded);
    if (g.group.count == kMostPerLaunch) flush();
  }
  flush();
}

}  // namespace

int64_t FeatureList::find(int64_t variable) const {
  const auto place = std::find(index.begin(), index.end(), variable);
  return place == index.end() ? -1 : place - index.begin();
}

int64_t parameters_per_variable(const Tensor& parameters) {
  return parameters.dim() == 2 ? parameters.size(1) : 1;
}

bool is_features(int64_t kind) { return kind < static_cast<int64_t>(KernelKind::labels); }

FeatureList features_of(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                        const std::vector<int64_t>& kinds, bool tf32,
                        const std::vector<int64_t>* centers_of) {
  STD_TORCH_CHECK(
      !variables.empty() && variables.size() == kinds.size() &&
          parameters.numel() / parameters_per_variable(parameters) == static_cast<int64_t>(variables.size()),
      op, ": variables, parameters and kinds must have one length");
  STD_TORCH_CHECK(parameters.scalar_type() == ScalarType::Double && parameters.is_contiguous(), op,
                  ": parameters must be contiguous float64");
  FeatureList list;
  list.n = variables[0].size(0);
  list.width = parameters_per_variable(parameters);
  STD_TORCH_CHECK(list.n >= 1 && list.n <= kMostRowsOfFeatures, op, ": the rows must be 1 to ",
                  kMostRowsOfFeatures, ", got ", list.n);
  for (size_t v = 0; v < variables.size(); ++v) {
    STD_TORCH_CHECK(kinds[v] != static_cast<int64_t>(KernelKind::rational_quadratic) || list.width >= 2, op,
                    ": the rational quadratic kernel has two parameters");
    const bool labels = kinds[v] == static_cast<int64_t>(KernelKind::labels);
    STD_TORCH_CHECK(kinds[v] >= 0 && kinds[v] <= static_cast<int64_t>(KernelKind::gram) &&
                        variables[v].dim() == (labels ? 1 : 2) && variables[v].size(0) == list.n,
                    op, ": variables must have the same rows, features two dimensions and labels one");
    if (labels) STD_TORCH_CHECK(variables[v].scalar_type() == ScalarType::Long, op, ": labels must be int64");
    STD_TORCH_CHECK(variables[v].get_device_index() == parameters.get_device_index(), op,
                    ": all variables must be on the device of the parameters");
    if (kinds[v] == static_cast<int64_t>(KernelKind::gram))
      STD_TORCH_CHECK(variables[v].size(1) == list.n, op, ": a Gram matrix must be (n, n)");
    if (!is_features(kinds[v])) continue;
    Tensor x = variables[v];
    STD_TORCH_CHECK(x.size(1) >= 1, op, ": features need columns");
    // The linear kernel's own matrix holds the mean, not just distances: it is centered in float32.
    if (kinds[v] == static_cast<int64_t>(KernelKind::linear) && x.scalar_type() != ScalarType::Float)
      x = torch::stable::to(x, ScalarType::Float);
    if (x.stride(1) != 1 || x.stride(0) < x.size(1)) x = torch::stable::contiguous(x);
    Features f{};
    f.x = x.const_data_ptr();
    f.stride = x.stride(0);
    f.d = x.size(1);
    f.type = feature_type(op, x);
    f.kind = static_cast<KernelKind>(kinds[v]);
    const int64_t bytes = f.type == FeatureType::float32 ? 4 : 2;
    f.vectors = reinterpret_cast<uintptr_t>(f.x) % 16 == 0 && f.stride * bytes % 16 == 0;
    f.tf32 = tf32;
    f.slot = static_cast<int>(list.count());
    f.parameter = static_cast<int>(static_cast<int64_t>(v) * list.width);
    list.features.push_back(f);
    list.index.push_back(static_cast<int64_t>(v));
    list.tensors.push_back(x);
  }
  fill_centers(op, list, centers_of);
  return list;
}

FeatureList some_of(const FeatureList& list, const std::vector<int64_t>& places) {
  FeatureList chosen;
  chosen.n = list.n;
  chosen.width = list.width;
  for (const int64_t k : places) {
    chosen.features.push_back(list.features[k]);
    chosen.index.push_back(list.index[k]);
    chosen.tensors.push_back(list.tensors[k]);
  }
  return chosen;
}

void fill_given(const char* op, const Tensor& variable, const double* scale, Tensor out) {
  if (variable.dim() == 2) {
    torch::stable::copy_(out, variable);
    return;
  }
  const Tensor labels = torch::stable::contiguous(variable);
  const int64_t n = labels.size(0);
  launch(op, labels, label_gram_kernel, dim3(static_cast<unsigned>(n)), 0,
         static_cast<const int64_t*>(labels.const_data_ptr()), scale,
         static_cast<float*>(out.mutable_data_ptr()), n);
}

}  // namespace bido
