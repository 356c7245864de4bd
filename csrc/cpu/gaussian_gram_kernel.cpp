// SPDX-License-Identifier: Apache-2.0
//
// gaussian_gram:  K_ij = exp(-gamma |x_i - x_j|^2), or E = K - 1 by expm1.
//
// Forward: chunk by chunk of columns, center the features into a cache-sized buffer and add its products
// with BLAS: for small n the chunks are shared among the threads (few output tiles, long rows), else each
// chunk multiplies only the row blocks on or right of the diagonal (about half of an n x n x d product).
// Then inner products become distances and kernel values tile by tile, each written with its mirror
// image. The squared norms are the diagonal of the same product: the same rounding as the cross terms.
//
// Backward: W = sym(grad) o K;  grad_x = -4 gamma (diag(W 1) - W) x, by row panels: a panel of
// 4 gamma (W - diag(W 1)) is built and multiplied by the features; no n x n matrix is allocated. Its rows
// sum to zero, so the features need no centering.
#include <algorithm>
#include <vector>

#include "../common/gaussian.h"
#include "../common/stable.h"
#include "center_features.h"
#include "vectorize.h"

namespace bido {
namespace {

constexpr int64_t kTile = 64;
constexpr int64_t kSmallRows = 192;  // up to here one BLAS call per chunk, chunks in parallel

// Few blocks waste products below the diagonal, many small ones waste BLAS speed.
int64_t symmetric_block_rows(int64_t n) { return std::max<int64_t>(96, (n / 8 + 31) / 32 * 32); }

// A panel of W with n columns: about 8 MiB, at least one tile of rows.
int64_t backward_panel_rows(int64_t n, int64_t element_size) {
  return std::clamp<int64_t>((int64_t{8} << 20) / (n * element_size), kTile, std::max<int64_t>(n, kTile));
}

template <typename T>
BIDO_VECTORIZE void kernel_values(const T* inner, T* out, const T* squared_norms, T norm_i, T gamma,
                                  int64_t count) {
  for (int64_t j = 0; j < count; ++j)
    out[j] = exp_nonpositive(-gamma * squared_distance(norm_i, squared_norms[j], inner[j]));
}

template <typename T>
BIDO_VECTORIZE void kernel_values_minus_one(const T* inner, T* out, const T* squared_norms, T norm_i, T gamma,
                                            int64_t count) {
  for (int64_t j = 0; j < count; ++j)
    out[j] = expm1_nonpositive(-gamma * squared_distance(norm_i, squared_norms[j], inner[j]));
}

template <typename T>
void finish_tile(T* gram, int64_t n, const T* squared_norms, T gamma, bool minus_one, TileIndex tile) {
  const int64_t i0 = tile.row * kTile, i1 = std::min(n, i0 + kTile);
  const int64_t j0 = tile.column * kTile, j1 = std::min(n, j0 + kTile);
  for (int64_t i = i0; i < i1; ++i) {
    const int64_t first = std::max(j0, i + 1);
    if (first >= j1) continue;
    T* row = gram + i * n + first;
    (minus_one ? kernel_values_minus_one<T> : kernel_values<T>)(row, row, squared_norms + first,
                                                                squared_norms[i], gamma, j1 - first);
  }
  for (int64_t i = i0; i < i1; ++i) {
    if (tile.row == tile.column)
      gram[i * n + i] = diagonal_minus_one(squared_norms[i]) + T(minus_one ? 0 : 1);
    for (int64_t j = std::max(j0, i + 1); j < j1; ++j) gram[j * n + i] = gram[i * n + j];
  }
}

template <typename T>
void finish_gram(const Tensor& gram_tensor, T gamma, bool minus_one) {
  T* gram = static_cast<T*>(gram_tensor.mutable_data_ptr());
  const int64_t n = gram_tensor.size(0);
  std::vector<T> squared_norms(n);
  for (int64_t i = 0; i < n; ++i) squared_norms[i] = gram[i * n + i];
  const int64_t tiles = (n + kTile - 1) / kTile;
  torch::stable::parallel_for(0, upper_tile_count(tiles), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      finish_tile<T>(gram, n, squared_norms.data(), gamma, minus_one, upper_tile(t));
  });
}

// out += c c' on and right of the diagonal blocks.
void add_symmetric_product(const Tensor& c, const Tensor& out, bool first) {
  const int64_t n = c.size(0), block = symmetric_block_rows(n);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(n, begin + block);
    const Tensor target = columns(rows(out, begin, end), begin, n);
    const Tensor transposed = torch::stable::transpose(rows(c, begin, n), 0, 1);
    (first ? matmul_into : matmul_add_cpu)(target, rows(c, begin, end), transposed);
  }
}

void product_by_chunks(const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(0), d = x.size(1);
  const int64_t width = std::min(d, std::clamp<int64_t>((int64_t{1} << 20) / n, 1024, 4096));
  for (int64_t begin = 0; begin < d; begin += width) {
    const int64_t end = std::min(d, begin + width);
    const Tensor chunk = empty_like_with(x, {n, end - begin}, out.scalar_type());
    center_columns_parallel_cpu(x, begin, end, chunk);
    add_symmetric_product(chunk, out, begin == 0);
  }
}

// The number of groups does not depend on the number of threads: neither do the sums.
constexpr int64_t kGroups = 16;
constexpr int64_t kGroupChunk = 1024;

template <typename T>
void product_by_groups(const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(0), d = x.size(1);
  const int64_t chunks = (d + kGroupChunk - 1) / kGroupChunk, groups = std::min(kGroups, chunks);
  const Tensor partial = empty_like_with(out, {groups * n, n}, out.scalar_type());
  torch::stable::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      const int64_t chunk_begin = g * chunks / groups, chunk_end = (g + 1) * chunks / groups;
      const Tensor target = rows(partial, g * n, (g + 1) * n);
      for (int64_t c = chunk_begin; c < chunk_end; ++c) {
        const int64_t begin = c * kGroupChunk, end = std::min(d, begin + kGroupChunk);
        const Tensor chunk = empty_like_with(out, {n, end - begin}, out.scalar_type());
        center_columns_cpu(x, begin, end, chunk);
        const Tensor transposed = torch::stable::transpose(chunk, 0, 1);
        (c == chunk_begin ? matmul_into : matmul_add_cpu)(target, chunk, transposed);
      }
    }
  });
  const T* sums = static_cast<const T*>(partial.const_data_ptr());
  T* total = static_cast<T*>(out.mutable_data_ptr());
  for (int64_t k = 0; k < n * n; ++k) {
    T sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += sums[g * n * n + k];
    total[k] = sum;
  }
}

template <typename T>
void gram_into(const Tensor& x, const Tensor& out, double gamma, bool minus_one) {
  if (x.size(0) <= kSmallRows) {
    product_by_groups<T>(x, out);
  } else {
    product_by_chunks(x, out);
  }
  finish_gram<T>(out, static_cast<T>(gamma), minus_one);
}

double read_gamma(const Tensor& gamma) {
  return gamma.scalar_type() == ScalarType::Double ? *static_cast<const double*>(gamma.const_data_ptr())
                                                   : *static_cast<const float*>(gamma.const_data_ptr());
}

// A stretch of one row of 4 gamma sym(grad) o K; returns its sum in float64.
template <typename T>
BIDO_VECTORIZE double weight_row(const T* grad_row, const T* grad_transposed_row, const T* gram_row, T* out,
                                 T add, T scale, int64_t n) {
  double lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const T w = scale * (grad_row[j + l] + grad_transposed_row[j + l]) * (gram_row[j + l] + add);
      out[j + l] = w;
      lanes[l] += static_cast<double>(w);
    }
  }
  double sum = 0;
  for (; j < n; ++j) {
    const T w = scale * (grad_row[j] + grad_transposed_row[j]) * (gram_row[j] + add);
    out[j] = w;
    sum += static_cast<double>(w);
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
void fill_weight_panel(const T* grad, const T* gram, T* panel, int64_t n, int64_t row_begin, int64_t row_end,
                       T gamma, T add) {
  const int64_t blocks = (row_end - row_begin + kTile - 1) / kTile;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    std::vector<T> transposed(kTile * n);
    for (int64_t b = first; b < last; ++b) {
      const int64_t i0 = row_begin + b * kTile, i1 = std::min(row_end, i0 + kTile);
      for (int64_t j = 0; j < n; ++j)  // columns i0..i1 of grad, read along its rows
        for (int64_t i = i0; i < i1; ++i) transposed[(i - i0) * n + j] = grad[j * n + i];
      for (int64_t i = i0; i < i1; ++i) {
        T* out = panel + (i - row_begin) * n;
        const T *row = grad + i * n, *column = transposed.data() + (i - i0) * n, *k = gram + i * n;
        // W_ii cancels against itself: left out, or its round-off would drown small off-diagonal weights.
        const double before = weight_row<T>(row, column, k, out, add, T(2) * gamma, i);
        const double after =
            weight_row<T>(row + i + 1, column + i + 1, k + i + 1, out + i + 1, add, T(2) * gamma, n - i - 1);
        out[i] = static_cast<T>(-(before + after));
      }
    }
  });
}

template <typename T>
void backward_panels(const Tensor& grad, const Tensor& gram, const Tensor& x, const Tensor& out, T gamma,
                     T add) {
  const int64_t n = x.size(0), panel_rows = backward_panel_rows(n, sizeof(T));
  Tensor panel = empty_like_with(x, {std::min(n, panel_rows), n}, x.scalar_type());
  for (int64_t begin = 0; begin < n; begin += panel_rows) {
    const int64_t end = std::min(n, begin + panel_rows);
    fill_weight_panel<T>(static_cast<const T*>(grad.const_data_ptr()),
                         static_cast<const T*>(gram.const_data_ptr()),
                         static_cast<T*>(panel.mutable_data_ptr()), n, begin, end, gamma, add);
    matmul_into(rows(out, begin, end), rows(panel, 0, end - begin), x);
  }
}

}  // namespace

Tensor gaussian_gram_cpu(Tensor x, Tensor gamma, bool minus_one) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1 && x.size(1) >= 1,
                  "gaussian_gram: x must be (n, d) with n, d >= 1");
  STD_TORCH_CHECK(gamma.numel() == 1 && gamma.is_cpu(), "gaussian_gram: gamma must be one number on the CPU");
  const int64_t n = x.size(0);
  x = with_dense_columns(x);
  Tensor gram = empty_like_with(x, {n, n}, accumulation_dtype(x.scalar_type()));
  if (gram.scalar_type() == ScalarType::Double) {
    gram_into<double>(x, gram, read_gamma(gamma), minus_one);
  } else {
    gram_into<float>(x, gram, read_gamma(gamma), minus_one);
  }
  return gram;
}

Tensor gaussian_gram_backward_cpu(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one) {
  const int64_t n = x.size(0);
  const ScalarType dtype = accumulation_dtype(x.scalar_type());
  STD_TORCH_CHECK(grad.size(0) == n && grad.size(1) == n && gram.size(0) == n && gram.size(1) == n,
                  "gaussian_gram_backward: grad and gram must be (n, n)");
  STD_TORCH_CHECK(grad.scalar_type() == dtype && gram.scalar_type() == dtype,
                  "gaussian_gram_backward: grad and gram must have the accumulation dtype of x");
  grad = torch::stable::contiguous(grad);
  gram = torch::stable::contiguous(gram);
  const Tensor wide = widen_cpu(x);
  Tensor out = empty_like_with(x, {n, x.size(1)}, dtype);
  const double g = read_gamma(gamma), add = minus_one ? 1.0 : 0.0;  // W needs K itself
  if (dtype == ScalarType::Double) {
    backward_panels<double>(grad, gram, wide, out, g, add);
  } else {
    backward_panels<float>(grad, gram, wide, out, static_cast<float>(g), static_cast<float>(add));
  }
  return convert_cpu(out, x.scalar_type());
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("gaussian_gram", TORCH_BOX(&bido::gaussian_gram_cpu));
  m.impl("gaussian_gram_backward", TORCH_BOX(&bido::gaussian_gram_backward_cpu));
}
