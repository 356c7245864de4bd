// SPDX-License-Identifier: Apache-2.0
#include "feature_rows.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <type_traits>
#include <vector>

#include "huge_pages.h"
#include "vectorize.h"

namespace bido {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// sum += row - origin.
template <typename In, typename T>
BIDO_VECTORIZE void add_difference(const In* row, const In* origin, T* sum, int64_t width) {
  for (int64_t j = 0; j < width; ++j) sum[j] += static_cast<T>(row[j]) - static_cast<T>(origin[j]);
}

// From the sum over `count` rows of what they have beyond the origin to their mean.
template <typename In, typename T>
BIDO_VECTORIZE void finish_mean(const In* origin, T count, T* sum, int64_t width) {
  for (int64_t j = 0; j < width; ++j) sum[j] = static_cast<T>(origin[j]) + sum[j] / count;
}

template <typename In, typename T>
BIDO_VECTORIZE void subtract_row(const In* row, const T* mean, T* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<T>(row[j]) - mean[j];
}

template <typename In, typename Out>
BIDO_VECTORIZE void copy_row(const In* row, Out* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<Out>(row[j]);
}

template <typename In, typename Out>
BIDO_VECTORIZE void copy_difference(const In* row, const In* origin, Out* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<Out>(row[j]) - static_cast<Out>(origin[j]);
}

// `count` stretches of `strip` differences each, next to each other in `row`, `stride` apart in `out`.
template <typename In, typename Out>
BIDO_VECTORIZE void copy_strips(const In* row, const In* origin, Out* out, int64_t count, int64_t strip,
                                int64_t stride) {
  for (int64_t s = 0; s < count; ++s)
    for (int64_t j = 0; j < strip; ++j)
      out[s * stride + j] = static_cast<Out>(row[s * strip + j]) - static_cast<Out>(origin[s * strip + j]);
}

template <typename In, typename Out>
BIDO_VECTORIZE void add_to_row(const In* row, Out* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<Out>(static_cast<In>(out[j]) + row[j]);
}

template <typename In, typename T>
BIDO_VECTORIZE void subtract_scaled_row(const In* row, const In* origin, T weight, T* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] -= weight * (static_cast<T>(row[j]) - static_cast<T>(origin[j]));
}

template <typename In, typename T>
BIDO_VECTORIZE double centered_norm(const In* row, const T* mean, int64_t width) {
  double lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double v = static_cast<double>(static_cast<T>(row[j + l]) - mean[j + l]);
      lanes[l] += v * v;
    }
  }
  double sum = 0;
  for (; j < width; ++j) {
    const double v = static_cast<double>(static_cast<T>(row[j]) - mean[j]);
    sum += v * v;
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename In, typename T>
BIDO_VECTORIZE T squared_difference(const In* a, const In* b, int64_t width) {
  T lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const T v = static_cast<T>(a[j + l]) - static_cast<T>(b[j + l]);
      lanes[l] += v * v;
    }
  }
  T sum = 0;
  for (; j < width; ++j) {
    const T v = static_cast<T>(a[j]) - static_cast<T>(b[j]);
    sum += v * v;
  }
  for (T lane : lanes) sum += lane;
  return sum;
}

// Calls function(In{}) with the element type of a dtype.
template <typename T, typename Function>
void dispatch(ScalarType dtype, const Function& function) {
  if constexpr (std::is_same_v<T, double>) {
    STD_TORCH_CHECK(dtype == ScalarType::Double, "bido_ext: float64 features expected");
    function(double{});
  } else {
    switch (dtype) {
      case ScalarType::Float:
        return function(float{});
      case ScalarType::BFloat16:
        return function(BFloat16{});
      case ScalarType::Half:
        return function(Half{});
      default:
        STD_TORCH_CHECK(false, "bido_ext: features must be float64, float32, bfloat16 or float16");
    }
  }
}

// Rows from a column on. PyTorch is asked once: its answers take as long as a short row does.
template <typename In>
class Rows {
 public:
  Rows(const Tensor& x, int64_t column)
      : data_(static_cast<const In*>(x.const_data_ptr()) + column), stride_(x.stride(0)) {}
  const In* operator[](int64_t row) const { return data_ + row * stride_; }

 private:
  const In* data_;
  int64_t stride_;
};

template <typename T>
void zero_padding(T* out, int64_t rows, int64_t stride, int64_t width, int64_t padded) {
  if (width < padded)
    for (int64_t i = 0; i < rows; ++i) std::fill(out + i * stride + width, out + i * stride + padded, T(0));
}

}  // namespace

Tensor with_dense_columns(const Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : torch::stable::contiguous(x);
}

RowsAhead rows_ahead(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
  const ScalarType dtype = x.scalar_type();
  const int64_t bytes = dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
  const char* data = static_cast<const char*>(x.const_data_ptr());
  return {data + (row_begin * x.stride(0) + begin) * bytes, row_end - row_begin, x.stride(0) * bytes,
          (std::min(end, x.size(1)) - begin) * bytes};
}

// Rows far apart in memory that are too short for the hardware to see them coming.
constexpr int64_t kShortRow = 256, kRowsBefore = 12;

template <typename In>
inline void fetch_row(const In* row, int64_t width) {
  for (int64_t j = 0; j < width; j += 64 / static_cast<int64_t>(sizeof(In)))
    __builtin_prefetch(row + j, 0, 2);
}

template <typename T>
void center_columns(const Tensor& x, int64_t begin, int64_t end, T* out, int64_t stride, int64_t padded) {
  const int64_t n = x.size(0), width = end - begin;
  std::vector<T> mean(width, T(0));
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const Rows<In> rows(x, begin);
    for (int64_t i = 0; i < n; ++i) {
      if (width <= kShortRow && i + kRowsBefore < n) fetch_row(rows[i + kRowsBefore], width);
      add_difference<In, T>(rows[i], rows[0], mean.data(), width);
    }
    finish_mean<In, T>(rows[0], static_cast<T>(n), mean.data(), width);
    for (int64_t i = 0; i < n; ++i) subtract_row<In, T>(rows[i], mean.data(), out + i * stride, width);
  });
  zero_padding(out, n, stride, width, padded);
}

template <typename T>
void subtract_means(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                    const T* means, T* out, int64_t stride, int64_t padded) {
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const Rows<In> rows(x, begin);
    for (int64_t i = row_begin; i < row_end; ++i)
      subtract_row<In, T>(rows[i], means + begin, out + (i - row_begin) * stride, end - begin);
  });
  zero_padding(out, row_end - row_begin, stride, end - begin, padded);
}

constexpr int64_t kMeanColumns = 256;  // per task

template <typename T>
void means_and_norms(const Tensor& x, T* means, T* norms) {
  const int64_t n = x.size(0), d = x.size(1);
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const int64_t tasks = (d + kMeanColumns - 1) / kMeanColumns;
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
      const int64_t begin = first * kMeanColumns, end = std::min(d, last * kMeanColumns);
      std::fill(means + begin, means + end, T(0));
      const Rows<In> rows(x, begin);
      for (int64_t i = 0; i < n; ++i) add_difference<In, T>(rows[i], rows[0], means + begin, end - begin);
      finish_mean<In, T>(rows[0], static_cast<T>(n), means + begin, end - begin);
    });
    if (norms == nullptr) return;
    const Rows<In> rows(x, 0);
    torch::stable::parallel_for(0, n, 8, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        norms[i] = static_cast<T>(centered_norm<In, T>(rows[i], means, d));
    });
  });
}

template <typename T>
void pack_strips(const Tensor& x, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end,
                 int64_t strip, T* out) {
  const int64_t rows = row_end - row_begin, whole = (end - begin) / strip, rest = end - begin - whole * strip;
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const Rows<In> source(x, begin);
    const In* origin = source[0];
    for (int64_t i = 0; i < rows; ++i) {
      const In* row = source[row_begin + i];
      copy_strips<In, T>(row, origin, out + i * strip, whole, strip, rows * strip);
      if (rest == 0) continue;
      T* target = out + (whole * rows + i) * strip;
      copy_difference<In, T>(row + whole * strip, origin + whole * strip, target, rest);
      std::fill(target + rest, target + strip, T(0));
    }
  });
}

// A gradient that is larger than the caches goes past them: a store that does would first read the line.
constexpr int64_t kStreamedBytes = int64_t{4} << 20;

template <typename T>
void stream_row(const T* row, T* out, int64_t width) {
  int64_t j = 0;
#ifdef __SSE2__
  constexpr int64_t kLine = 64 / sizeof(T), kVector = 16 / sizeof(T);
  while (j < width && reinterpret_cast<uintptr_t>(out + j) % 64 != 0) {
    out[j] = row[j];
    ++j;
  }
  for (; j + kLine <= width; j += kLine)
    for (int64_t l = j; l < j + kLine; l += kVector)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + l),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + l)));
#endif
  for (; j < width; ++j) out[j] = row[j];
}

// Before another thread may read what was streamed.
void end_stream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

template <typename T>
void store_rows(const T* source, int64_t stride, const Tensor& out, int64_t row_begin, int64_t count,
                int64_t begin, int64_t end, bool accumulate) {
  dispatch<T>(out.scalar_type(), [&](auto narrow) {
    using Out = decltype(narrow);
    const int64_t out_stride = out.stride(0);
    Out* target = static_cast<Out*>(out.mutable_data_ptr()) + row_begin * out_stride + begin;
    if constexpr (std::is_same_v<T, Out>) {
      if (!accumulate && out.numel() * static_cast<int64_t>(sizeof(Out)) >= kStreamedBytes) {
        for (int64_t i = 0; i < count; ++i)
          stream_row(source + i * stride, target + i * out_stride, end - begin);
        return end_stream();
      }
    }
    for (int64_t i = 0; i < count; ++i)
      (accumulate ? add_to_row<T, Out> : copy_row<T, Out>)(source + i * stride, target + i * out_stride,
                                                           end - begin);
  });
}

template <typename T>
void subtract_scaled_rows(const Tensor& out, const Tensor& x, const double* weights) {
  T* target = static_cast<T*>(out.mutable_data_ptr());
  const int64_t n = x.size(0), d = x.size(1);
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const Rows<In> rows(x, 0);
    torch::stable::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        subtract_scaled_row<In, T>(rows[i], rows[0], static_cast<T>(weights[i]), target + i * d, d);
    });
  });
}

template <typename T>
T exact_distance(const Tensor& x, int64_t i, int64_t j) {
  T distance = 0;
  dispatch<T>(x.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const Rows<In> rows(x, 0);
    distance = squared_difference<In, T>(rows[i], rows[j], x.size(1));
  });
  return distance;
}

constexpr int64_t kSampleWidth = 64, kSamples = 4;

template <typename In>
BIDO_VECTORIZE double squared_norm_of_row(const In* row, int64_t width) {
  double lanes[kLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double v = static_cast<double>(static_cast<float>(row[j + l]));
      lanes[l] += v * v;
    }
  }
  for (; j < width; ++j) {
    const double v = static_cast<double>(static_cast<float>(row[j]));
    sum += v * v;
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename In>
double squared_norm_of_some(const Tensor& x) {
  const int64_t n = x.size(0), d = x.size(1),
                samples = std::min(kSamples, (d + kSampleWidth - 1) / kSampleWidth);
  const Rows<In> rows(x, 0);
  double sum = 0;
  int64_t read = 0;
  for (int64_t s = 0; s < samples; ++s) {
    const int64_t begin = samples < kSamples ? s * kSampleWidth : s * (d - kSampleWidth) / (samples - 1);
    const int64_t end = std::min(d, begin + kSampleWidth);
    read += end - begin;
    for (int64_t i = 0; i < n; ++i) sum += squared_norm_of_row<In>(rows[i] + begin, end - begin);
  }
  return sum * static_cast<double>(d) / static_cast<double>(read);
}

double squared_norm_of_columns(const Tensor& x) {
  double result = 0;
  dispatch<float>(x.scalar_type(), [&](auto in) { result = squared_norm_of_some<decltype(in)>(x); });
  return result;
}

Tensor convert_rows(const Tensor& source, ScalarType dtype) {
  if (source.scalar_type() == dtype) return source;
  const int64_t n = source.size(0), d = source.size(1);
  Tensor out = empty_large(source, {n, d}, dtype);
  const float* from = static_cast<const float*>(source.const_data_ptr());  // float64 is never narrowed
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, 16384 / d), [&](int64_t begin, int64_t end) {
    store_rows<float>(from + begin * d, d, out, begin, end - begin, 0, d, false);
  });
  return out;
}

#define BIDO_INSTANTIATE(T)                                                                                 \
  template void center_columns<T>(const Tensor&, int64_t, int64_t, T*, int64_t, int64_t);                   \
  template void subtract_means<T>(const Tensor&, int64_t, int64_t, int64_t, int64_t, const T*, T*, int64_t, \
                                  int64_t);                                                                 \
  template void means_and_norms<T>(const Tensor&, T*, T*);                                                  \
  template void pack_strips<T>(const Tensor&, int64_t, int64_t, int64_t, int64_t, int64_t, T*);             \
  template void store_rows<T>(const T*, int64_t, const Tensor&, int64_t, int64_t, int64_t, int64_t, bool);  \
  template void subtract_scaled_rows<T>(const Tensor&, const Tensor&, const double*);                       \
  template T exact_distance<T>(const Tensor&, int64_t, int64_t);
BIDO_INSTANTIATE(float)
BIDO_INSTANTIATE(double)

}  // namespace bido
