// SPDX-License-Identifier: Apache-2.0
#include "center_features.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

namespace bido {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kParallelColumns = 256;  // per task of the parallel form

template <typename In, typename Acc>
BIDO_VECTORIZE void add_row(const In* row, Acc* sum, int64_t width) {
  for (int64_t j = 0; j < width; ++j) sum[j] += static_cast<Acc>(row[j]);
}

template <typename In, typename Acc>
BIDO_VECTORIZE void subtract_row(const In* row, const Acc* mean, Acc* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<Acc>(row[j]) - mean[j];
}

// Columns begin..end; `out` points at the first of them and has rows of out_stride entries.
template <typename In, typename Acc>
void center(const Tensor& x, int64_t begin, int64_t end, Acc* out, int64_t out_stride) {
  const int64_t n = x.size(0), row_stride = x.stride(0), width = end - begin;
  const In* source = static_cast<const In*>(x.const_data_ptr()) + begin;
  std::vector<Acc> mean(width, Acc(0));
  for (int64_t i = 0; i < n; ++i) add_row<In, Acc>(source + i * row_stride, mean.data(), width);
  for (int64_t j = 0; j < width; ++j) mean[j] /= static_cast<Acc>(n);
  for (int64_t i = 0; i < n; ++i)
    subtract_row<In, Acc>(source + i * row_stride, mean.data(), out + i * out_stride, width);
}

template <typename Function>
void dispatch(ScalarType dtype, const Function& function) {
  switch (dtype) {
    case ScalarType::Double:
      return function(double{}, double{});
    case ScalarType::Float:
      return function(float{}, float{});
    case ScalarType::BFloat16:
      return function(BFloat16{}, float{});
    case ScalarType::Half:
      return function(Half{}, float{});
    default:
      STD_TORCH_CHECK(false, "bido_ext: features must be float64, float32, bfloat16 or float16");
  }
}

template <typename From, typename To>
void convert(const Tensor& source, const Tensor& target) {
  const int64_t n = source.size(0), d = source.size(1), row_stride = source.stride(0);
  const From* from = static_cast<const From*>(source.const_data_ptr());
  To* to = static_cast<To*>(target.mutable_data_ptr());
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, 16384 / d), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < d; ++j) to[i * d + j] = static_cast<To>(from[i * row_stride + j]);
  });
}

}  // namespace

Tensor with_dense_columns(const Tensor& x) { return x.stride(1) == 1 ? x : torch::stable::contiguous(x); }

void center_columns_cpu(const Tensor& x, int64_t begin, int64_t end, const Tensor& out) {
  dispatch(x.scalar_type(), [&](auto in, auto acc) {
    using Acc = decltype(acc);
    center<decltype(in), Acc>(x, begin, end, static_cast<Acc*>(out.mutable_data_ptr()), end - begin);
  });
}

void center_columns_parallel_cpu(const Tensor& x, int64_t begin, int64_t end, const Tensor& out) {
  dispatch(x.scalar_type(), [&](auto in, auto acc) {
    using Acc = decltype(acc);
    Acc* target = static_cast<Acc*>(out.mutable_data_ptr());
    const int64_t tasks = (end - begin + kParallelColumns - 1) / kParallelColumns;
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const int64_t b = begin + t * kParallelColumns, e = std::min(end, b + kParallelColumns);
        center<decltype(in), Acc>(x, b, e, target + (b - begin), end - begin);
      }
    });
  });
}

void column_means_cpu(const Tensor& x, const Tensor& means) {
  dispatch(x.scalar_type(), [&](auto in, auto acc) {
    using In = decltype(in);
    using Acc = decltype(acc);
    const int64_t n = x.size(0), d = x.size(1), stride = x.stride(0);
    const In* source = static_cast<const In*>(x.const_data_ptr());
    Acc* mean = static_cast<Acc*>(means.mutable_data_ptr());
    torch::stable::parallel_for(
        0, (d + kParallelColumns - 1) / kParallelColumns, 1, [&](int64_t first, int64_t last) {
          const int64_t begin = first * kParallelColumns, end = std::min(d, last * kParallelColumns);
          std::fill(mean + begin, mean + end, Acc(0));
          for (int64_t i = 0; i < n; ++i)
            add_row<In, Acc>(source + i * stride + begin, mean + begin, end - begin);
          for (int64_t j = begin; j < end; ++j) mean[j] /= static_cast<Acc>(n);
        });
  });
}

void centered_norms_cpu(const Tensor& x, const Tensor& means, const Tensor& norms) {
  dispatch(x.scalar_type(), [&](auto in, auto acc) {
    using In = decltype(in);
    using Acc = decltype(acc);
    const int64_t n = x.size(0), d = x.size(1), stride = x.stride(0);
    const In* source = static_cast<const In*>(x.const_data_ptr());
    const Acc* mean = static_cast<const Acc*>(means.const_data_ptr());
    Acc* norm = static_cast<Acc*>(norms.mutable_data_ptr());
    torch::stable::parallel_for(0, n, 8, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        double lanes[kLanes] = {};
        for (int64_t j = 0; j < d; ++j) {
          const Acc v = static_cast<Acc>(source[i * stride + j]) - mean[j];
          lanes[j % kLanes] += static_cast<double>(v) * static_cast<double>(v);
        }
        double sum = 0;
        for (double lane : lanes) sum += lane;
        norm[i] = static_cast<Acc>(sum);
      }
    });
  });
}

void subtract_means_cpu(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                        const Tensor& means, const Tensor& out) {
  dispatch(x.scalar_type(), [&](auto in, auto acc) {
    using In = decltype(in);
    using Acc = decltype(acc);
    const int64_t stride = x.stride(0), width = end - begin;
    const In* source = static_cast<const In*>(x.const_data_ptr()) + begin;
    const Acc* mean = static_cast<const Acc*>(means.const_data_ptr()) + begin;
    Acc* target = static_cast<Acc*>(out.mutable_data_ptr());
    torch::stable::parallel_for(row_begin, row_end, 16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        subtract_row<In, Acc>(source + i * stride, mean, target + (i - row_begin) * width, width);
    });
  });
}

Tensor widen_cpu(const Tensor& x) {
  const ScalarType dtype = accumulation_dtype(x.scalar_type());
  if (x.scalar_type() == dtype) return x;
  const Tensor source = with_dense_columns(x);
  Tensor out = empty_like_with(source, {source.size(0), source.size(1)}, dtype);
  dispatch(x.scalar_type(), [&](auto in, auto acc) { convert<decltype(in), decltype(acc)>(source, out); });
  return out;
}

Tensor convert_cpu(const Tensor& source, ScalarType dtype) {
  if (source.scalar_type() == dtype) return source;
  Tensor out = empty_like_with(source, {source.size(0), source.size(1)}, dtype);
  dispatch(dtype, [&](auto narrow, auto acc) { convert<decltype(acc), decltype(narrow)>(source, out); });
  return out;
}

}  // namespace bido
