// SPDX-License-Identifier: Apache-2.0
//
// gaussian_gram:  K_ij = exp(-gamma |x_i - x_j|^2), or E = K - 1 by expm1.
//
// Forward: centre the features (one n x d copy), multiply only the row blocks on or right of the
// diagonal with BLAS (about half of an n x n x d product), then turn inner products into distances
// and kernel values tile by tile, writing each tile and its mirror image. The squared norms are the
// diagonal of the same product, so that they carry the same rounding as the cross terms.
//
// Backward: W = sym(grad) o K;  grad_x = -4 gamma (diag(W 1) - W) x, by row panels: a panel of
// 4 gamma (W - diag(W 1)) is built and multiplied by the features; no n x n matrix is allocated.
#include <algorithm>
#include <vector>

#include "../common/gaussian.h"
#include "../common/stable.h"
#include "center_features.h"
#include "vectorize.h"

namespace bido {
namespace {

constexpr int64_t kTile = 64;

// Few blocks waste products below the diagonal, many small ones waste BLAS speed.
int64_t symmetric_block_rows(int64_t n) {
  return n <= 192 ? n : std::max<int64_t>(96, (n / 8 + 31) / 32 * 32);
}

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

void symmetric_product(const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(0), block = symmetric_block_rows(n);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(n, begin + block);
    matmul_into(columns(rows(out, begin, end), begin, n), rows(x, begin, end),
                torch::stable::transpose(rows(x, begin, n), 0, 1));
  }
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
  const Tensor centered = center_features_cpu(x);
  Tensor gram = empty_like_with(centered, {n, n}, centered.scalar_type());
  symmetric_product(centered, gram);
  const double g = read_gamma(gamma);
  if (gram.scalar_type() == ScalarType::Double) {
    finish_gram<double>(gram, g, minus_one);
  } else {
    finish_gram<float>(gram, static_cast<float>(g), minus_one);
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
  const Tensor centered = center_features_cpu(x);
  Tensor out = empty_like_with(centered, {n, x.size(1)}, dtype);
  const double g = read_gamma(gamma), add = minus_one ? 1.0 : 0.0;  // W needs K itself
  if (dtype == ScalarType::Double) {
    backward_panels<double>(grad, gram, centered, out, g, add);
  } else {
    backward_panels<float>(grad, gram, centered, out, static_cast<float>(g), static_cast<float>(add));
  }
  return convert_cpu(out, x.scalar_type());
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("gaussian_gram", TORCH_BOX(&bido::gaussian_gram_cpu));
  m.impl("gaussian_gram_backward", TORCH_BOX(&bido::gaussian_gram_backward_cpu));
}
