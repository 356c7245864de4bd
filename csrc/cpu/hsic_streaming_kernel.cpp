// SPDX-License-Identifier: Apache-2.0
//
// hsic_streaming:  HSIC(x, y), HSIC(x, x), HSIC(y, y) (biased) without any n x n matrix.
//
// Forward: one pass over the tiles on or above the diagonal. A tile of each Gram matrix (up to centering) is
// made by BLAS from centered chunks of columns and an epilogue, and leaves three sums and its row sums:
//   <HKH, HLH> = sum K o L - (2/n) k'l + (1'k)(1'l) / n^2.
// Backward: the tiles are made again; each off-diagonal tile A_IJ of the weights serves twice,
//   grad_I += A_IJ x_J,   grad_J += A_IJ' x_I,
// so that the products are those of one full n x n x d product and the recomputation is half of one.
// Memory: a few tiles and chunks; O(n) sums. Tiles run one after the other, BLAS uses the threads.
// With keep_tiles the forward keeps its tiles on and above the diagonal (together about one n x n matrix for
// two feature variables) and the backward recomputes nothing.
#include <algorithm>
#include <tuple>
#include <vector>

#include "../common/stable.h"
#include "center_features.h"
#include "centered_product.h"
#include "gram_tile.h"
#include "vectorize.h"

namespace bido {
namespace {

struct Sums {
  double xy = 0, xx = 0, yy = 0;
};

template <typename T>
BIDO_VECTORIZE Sums tile_row(const T* a, const T* b, double* column_a, double* column_b, double& row_a,
                             double& row_b, int64_t count) {
  double xy[kLanes] = {}, xx[kLanes] = {}, yy[kLanes] = {}, sa[kLanes] = {}, sb[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const double p = static_cast<double>(a[j + l]), q = static_cast<double>(b[j + l]);
      xy[l] += p * q;
      xx[l] += p * p;
      yy[l] += q * q;
      sa[l] += p;
      sb[l] += q;
      column_a[j + l] += p;
      column_b[j + l] += q;
    }
  }
  Sums sums;
  for (; j < count; ++j) {
    const double p = static_cast<double>(a[j]), q = static_cast<double>(b[j]);
    sums.xy += p * q;
    sums.xx += p * p;
    sums.yy += q * q;
    row_a += p;
    row_b += q;
    column_a[j] += p;
    column_b[j] += q;
  }
  for (int l = 0; l < kLanes; ++l) {
    sums.xy += xy[l];
    sums.xx += xx[l];
    sums.yy += yy[l];
    row_a += sa[l];
    row_b += sb[l];
  }
  return sums;
}

constexpr int64_t kStripes = 8;  // fixed, so that sums do not depend on the number of threads

// Adds a tile to the sums; an off-diagonal tile stands for its mirror image too.
template <typename T>
void accumulate(const Tensor& a_tile, const Tensor& b_tile, Block I, Block J, Sums& total, double* a_sums,
                double* b_sums) {
  const T* a = static_cast<const T*>(a_tile.const_data_ptr());
  const T* b = static_cast<const T*>(b_tile.const_data_ptr());
  const int64_t a_stride = a_tile.stride(0), b_stride = b_tile.stride(0), m = I.size(), width = J.size();
  std::vector<Sums> stripes(kStripes);
  std::vector<double> column_sums(2 * kStripes * width, 0.0), row_sums(2 * m, 0.0);
  torch::stable::parallel_for(0, kStripes, 1, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      double* ca = column_sums.data() + 2 * s * width;
      for (int64_t i = s * m / kStripes; i < (s + 1) * m / kStripes; ++i) {
        const Sums row = tile_row<T>(a + i * a_stride, b + i * b_stride, ca, ca + width, row_sums[2 * i],
                                     row_sums[2 * i + 1], width);
        stripes[s].xy += row.xy;
        stripes[s].xx += row.xx;
        stripes[s].yy += row.yy;
      }
    }
  });
  const bool off_diagonal = I.begin != J.begin;
  const double weight = off_diagonal ? 2.0 : 1.0;
  for (int64_t s = 0; s < kStripes; ++s) {
    total.xy += weight * stripes[s].xy;
    total.xx += weight * stripes[s].xx;
    total.yy += weight * stripes[s].yy;
    if (!off_diagonal) continue;
    const double* ca = column_sums.data() + 2 * s * width;
    for (int64_t j = 0; j < width; ++j) {
      a_sums[J.begin + j] += ca[j];
      b_sums[J.begin + j] += ca[width + j];
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    a_sums[I.begin + i] += row_sums[2 * i];
    b_sums[I.begin + i] += row_sums[2 * i + 1];
  }
}

template <typename T>
Tensor make_tile(const Variable<T>& v, const Workspace& work, Block I, Block J, const Tensor& store,
                 int64_t index) {
  return gram_tile(v, work, I, J,
                   keeps_tiles(store) ? kept_tile(store, index, I, J) : tile_view(work.tile, I, J));
}

// The tile as the forward kept it, or made again.
template <typename T>
Tensor find_tile(const Variable<T>& v, const Workspace& work, Block I, Block J, const Tensor& store,
                 int64_t index) {
  return keeps_tiles(store) ? kept_tile(store, index, I, J)
                            : gram_tile(v, work, I, J, tile_view(work.tile, I, J));
}

template <typename T>
void forward(const Variable<T>& x, const Variable<T>& y, const Workspace& wx, const Workspace& wy, int64_t n,
             int64_t tile, const Tensor& x_store, const Tensor& y_store, double* values, double* x_sums,
             double* y_sums) {
  std::fill(x_sums, x_sums + n, 0.0);
  std::fill(y_sums, y_sums + n, 0.0);
  Sums total;
  int64_t index = 0;
  for (int64_t i = 0; i < n; i += tile) {
    for (int64_t j = i; j < n; j += tile, ++index) {
      const Block I{i, std::min(n, i + tile)}, J{j, std::min(n, j + tile)};
      const Tensor a = make_tile(x, wx, I, J, x_store, index), b = make_tile(y, wy, I, J, y_store, index);
      accumulate<T>(a, b, I, J, total, x_sums, y_sums);
    }
  }
  values[0] = centered_product(total.xy, x_sums, y_sums, n);
  values[1] = centered_product(total.xx, x_sums, x_sums, n);
  values[2] = centered_product(total.yy, y_sums, y_sums, n);
}

// What one side of the gradient needs: d value / dK = other * H L H + own * H K H, both scaled.
struct Coefficients {
  double other, own;
};

template <typename T>
BIDO_VECTORIZE double weight_row(KernelKind kind, const T* entry, T* out, const T* other,
                                 const double* own_shift, const double* other_shift, double own_row,
                                 double other_row, double own, double cross, T gamma, int64_t count) {
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    const T g = static_cast<T>(cross * (static_cast<double>(other[j]) - other_shift[j] - other_row) +
                               own * (static_cast<double>(entry[j]) - own_shift[j] - own_row));
    const T w = feature_weight(kind, entry[j], g, gamma);
    out[j] = w;
    sum += static_cast<double>(w);
  }
  return sum;
}

template <typename T>
BIDO_VECTORIZE void add_row_to(const T* row, double* sums, int64_t count) {
  for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<double>(row[j]);
}

// Adds the column sums of a tile to `sums`, in an order that does not depend on the threads.
template <typename T>
void add_column_sums(const T* tile, int64_t stride, int64_t n_rows, int64_t n_columns, double* sums) {
  std::vector<double> partial(kStripes * n_columns, 0.0);
  torch::stable::parallel_for(0, kStripes, 1, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s)
      for (int64_t i = s * n_rows / kStripes; i < (s + 1) * n_rows / kStripes; ++i)
        add_row_to<T>(tile + i * stride, partial.data() + s * n_columns, n_columns);
  });
  for (int64_t s = 0; s < kStripes; ++s)
    for (int64_t j = 0; j < n_columns; ++j) sums[j] += partial[s * n_columns + j];
}

// From the tile of the own Gram matrix to the weights A_IJ in `out` (which may be the same tile); adds
// their row and column sums.
template <typename T>
void fill_weights(const Variable<T>& v, const Tensor& own_tile, const Tensor& other_tile, const Tensor& out,
                  Block I, Block J, Coefficients c, const double* own_sums, const double* other_sums,
                  double own_total, double other_total, int64_t n, double* weight_sums) {
  const T* own = static_cast<const T*>(own_tile.const_data_ptr());
  T* weights = static_cast<T*>(out.mutable_data_ptr());
  const T* other = static_cast<const T*>(other_tile.const_data_ptr());
  const int64_t own_stride = own_tile.stride(0), other_stride = other_tile.stride(0),
                out_stride = out.stride(0);
  const auto m = static_cast<double>(n);
  std::vector<double> own_shift(J.size()), other_shift(J.size());
  for (int64_t j = 0; j < J.size(); ++j) {
    own_shift[j] = own_sums[J.begin + j] / m;
    other_shift[j] = other_sums[J.begin + j] / m;
  }
  std::vector<double> row_total(I.size());
  torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      T* row = weights + i * out_stride;
      const double own_row = own_sums[I.begin + i] / m - own_total / (m * m);
      const double other_row = other_sums[I.begin + i] / m - other_total / (m * m);
      row_total[i] =
          weight_row<T>(v.kind, own + i * own_stride, row, other + i * other_stride, own_shift.data(),
                        other_shift.data(), own_row, other_row, c.own, c.other, v.parameter, J.size());
      if (I.begin == J.begin && v.kind != KernelKind::linear) {  // the diagonal cancels against itself
        row_total[i] -= static_cast<double>(row[i]);
        row[i] = T(0);
      }
    }
  });
  if (v.kind == KernelKind::linear) return;
  for (int64_t i = 0; i < I.size(); ++i) weight_sums[I.begin + i] += row_total[i];
  if (I.begin == J.begin) return;
  add_column_sums<T>(weights, out_stride, I.size(), J.size(), weight_sums + J.begin);
}

// grad rows minus weight_sums_i * x_i.
template <typename T>
void subtract_diagonal(const Tensor& grad, const Tensor& x, const double* weight_sums) {
  T* out = static_cast<T*>(grad.mutable_data_ptr());
  const T* source = static_cast<const T*>(x.const_data_ptr());
  const int64_t n = x.size(0), d = x.size(1), stride = x.stride(0);
  torch::stable::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const T w = static_cast<T>(weight_sums[i]);
      for (int64_t j = 0; j < d; ++j) out[i * d + j] -= w * source[i * stride + j];
    }
  });
}

// Gradient of the three values with respect to `v`; `other` is the partner.
template <typename T>
Tensor gradient(const Variable<T>& v, const Variable<T>& other, const Workspace& wv, const Workspace& wo,
                const Tensor& own_store, const Tensor& other_store, int64_t tile, Coefficients c,
                const double* own_sums, const double* other_sums) {
  const int64_t n = v.data.size(0);
  const Tensor x = widen_cpu(v.data);
  const Tensor grad = empty_like_with(x, {n, x.size(1)}, x.scalar_type());
  std::vector<double> weight_sums(n, 0.0);
  double own_total = 0, other_total = 0;
  for (int64_t i = 0; i < n; ++i) {
    own_total += own_sums[i];
    other_total += other_sums[i];
  }
  int64_t index = 0;
  for (int64_t i = 0; i < n; i += tile) {
    for (int64_t j = i; j < n; j += tile, ++index) {
      const Block I{i, std::min(n, i + tile)}, J{j, std::min(n, j + tile)};
      const Tensor own = find_tile(v, wv, I, J, own_store, index);
      const Tensor b = find_tile(other, wo, I, J, other_store, index);
      const Tensor a = tile_view(wv.tile, I, J);
      fill_weights<T>(v, own, b, a, I, J, c, own_sums, other_sums, own_total, other_total, n,
                      weight_sums.data());
      // Row block 0 meets every J first, so that it writes and the rest adds.
      const Tensor xi = rows(x, I.begin, I.end), xj = rows(x, J.begin, J.end);
      (I.begin == 0 && J.begin == 0 ? matmul_into : matmul_add_cpu)(rows(grad, I.begin, I.end), a, xj);
      if (I.begin == J.begin) continue;
      (I.begin == 0 ? matmul_into : matmul_add_cpu)(rows(grad, J.begin, J.end),
                                                    torch::stable::transpose(a, 0, 1), xi);
    }
  }
  if (v.kind != KernelKind::linear) subtract_diagonal<T>(grad, x, weight_sums.data());
  return convert_cpu(grad, v.data.scalar_type());
}

void check_arguments(const Tensor& x, const Tensor& y, int64_t kind_x, int64_t kind_y, int64_t tile) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 2 && x.size(1) >= 1,
                  "hsic_streaming: x must be (n, d), n >= 2");
  STD_TORCH_CHECK(y.size(0) == x.size(0), "hsic_streaming: x and y must have the same number of rows");
  STD_TORCH_CHECK(tile >= 1, "hsic_streaming: tile must be positive");
  const bool labels = static_cast<KernelKind>(kind_y) == KernelKind::labels;
  STD_TORCH_CHECK(kind_x >= 0 && kind_x < 3 && kind_y >= 0 && kind_y <= 3,
                  "hsic_streaming: unknown kernel kind");
  STD_TORCH_CHECK(labels ? y.dim() == 1 && y.scalar_type() == ScalarType::Long : y.dim() == 2,
                  "hsic_streaming: y must be (n, e) features or (n,) int64 labels");
  STD_TORCH_CHECK(labels || accumulation_dtype(x.scalar_type()) == accumulation_dtype(y.scalar_type()),
                  "hsic_streaming: x and y must accumulate in the same dtype");
}

struct Results {
  Tensor values, x_sums, y_sums, x_tiles, y_tiles;
};

template <typename T>
void run_forward(const Tensor& x, const Tensor& y, const Tensor& px, const Tensor& py, int64_t kind_x,
                 int64_t kind_y, int64_t tile, bool keep, Results& r) {
  const Variable<T> vx = make_variable<T>(x, kind_x, px), vy = make_variable<T>(y, kind_y, py);
  const Workspace wx = make_workspace(vx, tile), wy = make_workspace(vy, tile);
  r.x_tiles = make_tile_store(vx, tile, keep);
  r.y_tiles = make_tile_store(vy, tile, keep);
  forward<T>(vx, vy, wx, wy, x.size(0), tile, r.x_tiles, r.y_tiles,
             static_cast<double*>(r.values.mutable_data_ptr()),
             static_cast<double*>(r.x_sums.mutable_data_ptr()),
             static_cast<double*>(r.y_sums.mutable_data_ptr()));
}

template <typename T>
std::tuple<Tensor, Tensor> run_backward(const double* g, const Tensor& x, const Tensor& y, const Tensor& px,
                                        const Tensor& py, const Tensor& xs, const Tensor& ys,
                                        const Tensor& x_store, const Tensor& y_store, int64_t kind_x,
                                        int64_t kind_y, int64_t tile, bool needs_x, bool needs_y) {
  const Variable<T> vx = make_variable<T>(x, kind_x, px), vy = make_variable<T>(y, kind_y, py);
  const Workspace wx = make_workspace(vx, tile), wy = make_workspace(vy, tile);
  const double* x_sums = static_cast<const double*>(xs.const_data_ptr());
  const double* y_sums = static_cast<const double*>(ys.const_data_ptr());
  const auto m = static_cast<double>(x.size(0));
  const double scale = 1.0 / ((m - 1) * (m - 1));
  Tensor grad_x = empty_like_with(x, {0}, x.scalar_type()), grad_y = empty_like_with(x, {0}, x.scalar_type());
  if (needs_x)
    grad_x =
        gradient<T>(vx, vy, wx, wy, x_store, y_store, tile, {g[0] * scale, 2 * g[1] * scale}, x_sums, y_sums);
  if (needs_y)
    grad_y =
        gradient<T>(vy, vx, wy, wx, y_store, x_store, tile, {g[0] * scale, 2 * g[2] * scale}, y_sums, x_sums);
  return {grad_x, grad_y};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> hsic_streaming_cpu(Tensor x, Tensor y, Tensor parameter_x,
                                                                      Tensor parameter_y, int64_t kind_x,
                                                                      int64_t kind_y, int64_t tile,
                                                                      bool keep_tiles) {
  check_arguments(x, y, kind_x, kind_y, tile);
  const int64_t n = x.size(0);
  x = with_dense_columns(x);
  y = y.dim() == 2 ? with_dense_columns(y) : torch::stable::contiguous(y);
  tile = std::min(tile, n);
  Results r{empty_like_with(x, {3}, ScalarType::Double),
            empty_like_with(x, {n}, ScalarType::Double),
            empty_like_with(x, {n}, ScalarType::Double),
            {},
            {}};
  (accumulation_dtype(x.scalar_type()) == ScalarType::Double
       ? run_forward<double>
       : run_forward<float>)(x, y, parameter_x, parameter_y, kind_x, kind_y, tile, keep_tiles, r);
  return {r.values, r.x_sums, r.y_sums, r.x_tiles, r.y_tiles};
}

std::tuple<Tensor, Tensor> hsic_streaming_backward_cpu(Tensor grad, Tensor x, Tensor y, Tensor parameter_x,
                                                       Tensor parameter_y, Tensor xs, Tensor ys,
                                                       Tensor x_tiles, Tensor y_tiles, int64_t kind_x,
                                                       int64_t kind_y, int64_t tile, bool needs_x,
                                                       bool needs_y) {
  check_arguments(x, y, kind_x, kind_y, tile);
  STD_TORCH_CHECK(grad.numel() == 3 && grad.scalar_type() == ScalarType::Double,
                  "hsic_streaming_backward: grad must hold three float64 numbers");
  grad = torch::stable::contiguous(grad);
  x = with_dense_columns(x);
  y = y.dim() == 2 ? with_dense_columns(y) : torch::stable::contiguous(y);
  tile = std::min(tile, x.size(0));
  return (accumulation_dtype(x.scalar_type()) == ScalarType::Double
              ? run_backward<double>
              : run_backward<float>)(static_cast<const double*>(grad.const_data_ptr()), x, y, parameter_x,
                                     parameter_y, xs, ys, x_tiles, y_tiles, kind_x, kind_y, tile, needs_x,
                                     needs_y);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("hsic_streaming", TORCH_BOX(&bido::hsic_streaming_cpu));
  m.impl("hsic_streaming_backward", TORCH_BOX(&bido::hsic_streaming_backward_cpu));
}
