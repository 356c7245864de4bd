// SPDX-License-Identifier: Apache-2.0
//
// One tile of a Gram matrix, up to centering, straight from the features: centered chunks of columns, BLAS,
// epilogue. What the streaming kernels are made of.
#pragma once

#include <algorithm>

#include "../common/kernel_tile.h"
#include "../common/stable.h"
#include "center_features.h"
#include "vectorize.h"

namespace bido {

constexpr int64_t kTileChunk = 1024;  // columns of x centered at a time

struct Block {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// One variable: features with their column means and squared norms, or int64 labels.
template <typename T>
struct Variable {
  Tensor data;
  KernelKind kind;
  T parameter;          // gamma, or the scale of the labels
  Tensor means, norms;  // [d], [n] of T; empty for labels

  bool is_labels() const { return kind == KernelKind::labels; }
};

template <typename T>
constexpr ScalarType scalar_type_of() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
Variable<T> make_variable(const Tensor& data, int64_t kind, const Tensor& parameter) {
  const T p = static_cast<T>(parameter.scalar_type() == ScalarType::Double
                                 ? *static_cast<const double*>(parameter.const_data_ptr())
                                 : *static_cast<const float*>(parameter.const_data_ptr()));
  const bool labels = static_cast<KernelKind>(kind) == KernelKind::labels;
  Variable<T> v{data, static_cast<KernelKind>(kind), p,
                empty_like_with(data, {labels ? 0 : data.size(1)}, scalar_type_of<T>()),
                empty_like_with(data, {labels ? 0 : data.size(0)}, scalar_type_of<T>())};
  if (!labels) {
    column_means_cpu(data, v.means);
    centered_norms_cpu(data, v.means, v.norms);
  }
  return v;
}

// A tile buffer and the two chunk buffers that feed it.
struct Workspace {
  Tensor tile, left, right;
};

template <typename T>
Workspace make_workspace(const Variable<T>& v, int64_t tile) {
  const int64_t width = v.is_labels() ? 0 : std::min(kTileChunk, v.data.size(1));
  return {empty_like_with(v.data, {tile, tile}, scalar_type_of<T>()),
          empty_like_with(v.data, {tile * width}, scalar_type_of<T>()),
          empty_like_with(v.data, {tile * width}, scalar_type_of<T>())};
}

inline Tensor chunk_view(Tensor buffer, int64_t n_rows, int64_t n_columns) {
  return torch::stable::view(torch::stable::narrow(buffer, 0, 0, n_rows * n_columns), {n_rows, n_columns});
}

template <typename T>
BIDO_VECTORIZE void gram_row(KernelKind kind, T* row, T norm_i, const T* norms, T gamma, int64_t count) {
  if (kind == KernelKind::gaussian) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = gram_entry(KernelKind::gaussian, norm_i, norms[j], row[j], gamma);
  } else if (kind == KernelKind::inverse_multiquadric) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = gram_entry(KernelKind::inverse_multiquadric, norm_i, norms[j], row[j], gamma);
  }
}

template <typename T>
void label_tile(const Variable<T>& v, const Tensor& out, Block I, Block J) {
  const int64_t* y = static_cast<const int64_t*>(v.data.const_data_ptr());
  T* tile = static_cast<T*>(out.mutable_data_ptr());
  const int64_t stride = out.stride(0);
  torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < J.size(); ++j)
        tile[i * stride + j] = y[I.begin + i] == y[J.begin + j] ? v.parameter : T(0);
  });
}

inline Tensor tile_view(const Tensor& tile, Block I, Block J) {
  return columns(rows(tile, 0, I.size()), 0, J.size());
}

// Kept tiles of a variable, [count, tile, tile]; count = 0 keeps none. Labels are made again, not kept.
template <typename T>
Tensor make_tile_store(const Variable<T>& v, int64_t tile, bool keep) {
  const int64_t count = keep && !v.is_labels() ? upper_tile_count((v.data.size(0) + tile - 1) / tile) : 0;
  return empty_like_with(v.data, {count, tile, tile}, scalar_type_of<T>());
}

inline bool keeps_tiles(const Tensor& store) { return store.size(0) > 0; }

inline Tensor kept_tile(Tensor store, int64_t index, Block I, Block J) {
  return tile_view(torch::stable::select(store, 0, index), I, J);
}

// The Gram tile of rows I and columns J, up to centering, into `out` [I, J] (row-strided); returns `out`.
template <typename T>
Tensor gram_tile(const Variable<T>& v, const Workspace& work, Block I, Block J, const Tensor& out) {
  if (v.is_labels()) {
    label_tile(v, out, I, J);
    return out;
  }
  const int64_t d = v.data.size(1);
  for (int64_t begin = 0; begin < d; begin += kTileChunk) {
    const int64_t end = std::min(d, begin + kTileChunk);
    const Tensor left = chunk_view(work.left, I.size(), end - begin);
    const Tensor right = I.begin == J.begin ? left : chunk_view(work.right, J.size(), end - begin);
    subtract_means_cpu(v.data, I.begin, I.end, begin, end, v.means, left);
    if (I.begin != J.begin) subtract_means_cpu(v.data, J.begin, J.end, begin, end, v.means, right);
    (begin == 0 ? matmul_into : matmul_add_cpu)(out, left, torch::stable::transpose(right, 0, 1));
  }
  T* tile = static_cast<T*>(out.mutable_data_ptr());
  const T* norms = static_cast<const T*>(v.norms.const_data_ptr());
  const int64_t stride = out.stride(0);
  torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      gram_row<T>(v.kind, tile + i * stride, norms[I.begin + i], norms + J.begin, v.parameter, J.size());
      const int64_t diagonal = I.begin + i - J.begin;
      if (v.kind != KernelKind::linear && diagonal >= 0 && diagonal < J.size())
        tile[i * stride + diagonal] = diagonal_minus_one(norms[I.begin + i]);
    }
  });
  return out;
}

}  // namespace bido
