// SPDX-License-Identifier: Apache-2.0
//
// Checks of a group, and the column means of its float32 features: subtracting them leaves distances and
// centered matrices unchanged and saves digits. Few samples: one launch for the group. Many: the rows are
// shared among blocks, whose sums are added up in order.
#include <algorithm>

#include "group.h"

namespace bido {
namespace {

constexpr int kMeansColumns = 32, kMeansLanes = kBlock / kMeansColumns;
constexpr int64_t kRowsPerSegment = 1024;
constexpr int64_t kMostRowsOfFeatures = 65535 * kRowsPerSegment;  // a grid has at most 65,535 segments

struct MeansGroup {
  FeatureGroup group;
  float* sums[kMostPerLaunch];  // [segments, padded]; the means themselves where there is one segment
  int64_t padded[kMostPerLaunch];
  int64_t n, segments;
};

__global__ void __launch_bounds__(kBlock) column_sums_kernel(MeansGroup g) {
  __shared__ float partial[kMeansLanes][kMeansColumns];
  const Features& f = g.group.v[blockIdx.y];
  const int64_t padded = g.padded[blockIdx.y];
  const int lane = threadIdx.x % kMeansColumns, row_lane = threadIdx.x / kMeansColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kMeansColumns + lane;
  const int64_t first = static_cast<int64_t>(blockIdx.z) * kRowsPerSegment;
  const int64_t last = first + kRowsPerSegment < g.n ? first + kRowsPerSegment : g.n;
  float sum = 0;
  if (column < f.d)
    for (int64_t i = first + row_lane; i < last; i += kMeansLanes)
      sum += static_cast<const float*>(f.x)[i * f.stride + column];
  partial[row_lane][lane] = sum;
  __syncthreads();
  if (row_lane == 0 && column < padded) {
    for (int r = 1; r < kMeansLanes; ++r) sum += partial[r][lane];
    if (g.segments == 1) sum /= static_cast<float>(g.n);
    g.sums[blockIdx.y][blockIdx.z * padded + column] = sum;
  }
}

__global__ void __launch_bounds__(kBlock)
    segment_means_kernel(const float* sums, float* means, int64_t padded, int64_t segments, int64_t n) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (column >= padded) return;
  float sum = 0;
  for (int64_t s = 0; s < segments; ++s) sum += sums[s * padded + column];
  means[column] = sum / static_cast<float>(n);
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

int64_t padded_width(int64_t d) { return ceil_div(d, kMeansPadding) * kMeansPadding; }

void fill_means(const char* op, FeatureList& list, const std::vector<int64_t>* only) {
  const int64_t segments = ceil_div(list.n, kRowsPerSegment);
  MeansGroup g{};
  g.n = list.n;
  g.segments = segments;
  std::vector<Tensor> sums;
  std::vector<float*> targets;
  int64_t widest = 0;
  const auto flush = [&] {
    if (g.group.count == 0) return;
    const dim3 grid(static_cast<unsigned>(ceil_div(widest, kMeansColumns)), g.group.count,
                    static_cast<unsigned>(segments));
    launch(op, list.tensors[0], column_sums_kernel, grid, 0, g);
    for (int k = 0; segments > 1 && k < g.group.count; ++k)
      launch(op, list.tensors[0], segment_means_kernel,
             dim3(static_cast<unsigned>(ceil_div(g.padded[k], kBlock))), 0,
             static_cast<const float*>(g.sums[k]), targets[k], g.padded[k], segments, list.n);
    g.group.count = 0;
    widest = 0;
    targets.clear();
  };
  for (int64_t k = 0, count = list.count(); k < count; ++k) {
    Features& f = list.features[k];
    if (f.type != FeatureType::float32) continue;
    if (only && std::find(only->begin(), only->end(), list.index[k]) == only->end()) continue;
    const int64_t padded = padded_width(f.d);
    const Tensor means = empty_like_with(list.tensors[k], {padded}, ScalarType::Float);
    f.means = static_cast<const float*>(means.const_data_ptr());
    list.tensors.push_back(means);
    targets.push_back(static_cast<float*>(means.mutable_data_ptr()));
    const int place = g.group.count++;
    g.group.v[place] = f;
    g.padded[place] = padded;
    g.sums[place] = targets.back();
    if (segments > 1) {
      sums.push_back(empty_like_with(means, {segments, padded}, ScalarType::Float));
      g.sums[place] = static_cast<float*>(sums.back().mutable_data_ptr());
    }
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

bool is_features(int64_t kind) { return kind < static_cast<int64_t>(KernelKind::labels); }

FeatureList features_of(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                        const std::vector<int64_t>& kinds, bool tf32, const std::vector<int64_t>* means_of) {
  STD_TORCH_CHECK(!variables.empty() && variables.size() == kinds.size() &&
                      parameters.numel() == static_cast<int64_t>(variables.size()),
                  op, ": variables, parameters and kinds must have one length");
  STD_TORCH_CHECK(parameters.scalar_type() == ScalarType::Double && parameters.is_contiguous(), op,
                  ": parameters must be contiguous float64");
  FeatureList list;
  list.n = variables[0].size(0);
  STD_TORCH_CHECK(list.n >= 1 && list.n <= kMostRowsOfFeatures, op, ": the rows must be 1 to ",
                  kMostRowsOfFeatures, ", got ", list.n);
  for (size_t v = 0; v < variables.size(); ++v) {
    STD_TORCH_CHECK(
        kinds[v] <= static_cast<int64_t>(KernelKind::inverse_multiquadric) || !is_features(kinds[v]), op,
        ": the kernels of the GPU are the Gaussian, linear and inverse multiquadric ones");
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
    f.parameter = static_cast<int>(v);
    list.features.push_back(f);
    list.index.push_back(static_cast<int64_t>(v));
    list.tensors.push_back(x);
  }
  fill_means(op, list, means_of);
  return list;
}

FeatureList some_of(const FeatureList& list, const std::vector<int64_t>& places) {
  FeatureList chosen;
  chosen.n = list.n;
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
