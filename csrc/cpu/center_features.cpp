// SPDX-License-Identifier: Apache-2.0
#include "center_features.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

namespace bido {
namespace {

constexpr int64_t kColumnChunk = 1024;  // 64 rows x 1024 float32 columns fit in a core's L2

template <typename In, typename Acc>
void center_columns(const In* x, Acc* out, int64_t n, int64_t d, int64_t row_stride, int64_t begin,
                    int64_t end) {
  const int64_t width = end - begin;
  std::vector<Acc> mean(width, Acc(0));
  for (int64_t i = 0; i < n; ++i) {
    const In* row = x + i * row_stride + begin;
    for (int64_t j = 0; j < width; ++j) mean[j] += static_cast<Acc>(row[j]);
  }
  for (int64_t j = 0; j < width; ++j) mean[j] /= static_cast<Acc>(n);
  for (int64_t i = 0; i < n; ++i) {
    const In* row = x + i * row_stride + begin;
    Acc* target = out + i * d + begin;
    for (int64_t j = 0; j < width; ++j) target[j] = static_cast<Acc>(row[j]) - mean[j];
  }
}

template <typename In, typename Acc>
void center_all(const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(0), d = x.size(1), row_stride = x.stride(0);
  const In* source = static_cast<const In*>(x.const_data_ptr());
  Acc* target = static_cast<Acc*>(out.mutable_data_ptr());
  const int64_t chunks = (d + kColumnChunk - 1) / kColumnChunk;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      center_columns<In, Acc>(source, target, n, d, row_stride, c * kColumnChunk,
                              std::min(d, (c + 1) * kColumnChunk));
    }
  });
}

template <typename Acc, typename Out>
void convert(const Tensor& source, const Tensor& target) {
  const Acc* from = static_cast<const Acc*>(source.const_data_ptr());
  Out* to = static_cast<Out*>(target.mutable_data_ptr());
  torch::stable::parallel_for(0, source.numel(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<Out>(from[i]);
  });
}

}  // namespace

Tensor center_features_cpu(const Tensor& x_any) {
  // Only the column stride must be one: row-sliced batches need no copy.
  const Tensor x = x_any.stride(1) == 1 ? x_any : torch::stable::contiguous(x_any);
  Tensor out = empty_like_with(x, {x.size(0), x.size(1)}, accumulation_dtype(x.scalar_type()));
  switch (x.scalar_type()) {
    case ScalarType::Double:
      center_all<double, double>(x, out);
      break;
    case ScalarType::Float:
      center_all<float, float>(x, out);
      break;
    case ScalarType::BFloat16:
      center_all<torch::headeronly::BFloat16, float>(x, out);
      break;
    case ScalarType::Half:
      center_all<torch::headeronly::Half, float>(x, out);
      break;
    default:
      STD_TORCH_CHECK(false, "bido_ext: features must be float64, float32, bfloat16 or float16");
  }
  return out;
}

Tensor convert_cpu(const Tensor& source, ScalarType dtype) {
  if (source.scalar_type() == dtype) return source;
  Tensor out = empty_like_with(source, {source.size(0), source.size(1)}, dtype);
  switch (dtype) {
    case ScalarType::BFloat16:
      convert<float, torch::headeronly::BFloat16>(source, out);
      break;
    case ScalarType::Half:
      convert<float, torch::headeronly::Half>(source, out);
      break;
    default:
      STD_TORCH_CHECK(false, "bido_ext: unsupported gradient dtype");
  }
  return out;
}

}  // namespace bido
