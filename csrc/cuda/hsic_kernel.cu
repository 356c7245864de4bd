// SPDX-License-Identifier: Apache-2.0
//
// hsic on CUDA: the values of the pairs of a group, and the row sums of each Gram matrix for the backward.
//
//   value = scale (sum K o L + pair k'l + total (1'k)(1'l)),  k = K 1, l = L 1
//
// Dense (tile >= n): the Gram matrices of the features are made whole and kept. Streaming: panels of `tile`
// rows, only their part on or right of the diagonal, are made, added up and forgotten; no n x n matrix
// exists. All sums are in float64 and in a fixed order: a warp per row and task (a pair, or the row sums of a
// variable), then one block per pair.
#include <algorithm>

#include "hsic_group.h"
#include "library.h"

namespace bido {
namespace {

constexpr int kRowsPerBlock = kBlock / kWarp;

struct SumsArguments {
  Entries e;
  int slots[kMostVariables];
  int first[kMostPairs], second[kMostPairs];  // slots of the pairs
  int pairs, variables;
  double *sums, *products;  // [variables, n]; [pairs, n] sums of K o L by rows
  bool unbiased, whole;
};

// blockIdx.y: a task. Columns beyond the panel's own rows stand for their mirror image as well.
__global__ void __launch_bounds__(kBlock, 4) row_sums_kernel(const __grid_constant__ SumsArguments s) {
  const Entries& e = s.e;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
  if (i >= e.rows) return;  // a whole warp
  const int task = static_cast<int>(blockIdx.y);
  const bool is_pair = task < s.pairs;
  const int a = is_pair ? s.first[task] : s.slots[task - s.pairs], b = is_pair ? s.second[task] : 0;
  const int64_t diagonal = s.unbiased ? e.row_begin + i - e.column_begin : -1;
  const int64_t mirrored = e.row_begin + e.rows - e.column_begin;
  double sum = 0;
  for (int64_t j = threadIdx.x % kWarp; j < e.columns; j += kWarp) {
    if (j == diagonal) continue;
    double value = gram_at(e, a, i, j);
    if (is_pair) value *= gram_at(e, b, i, j) * (j >= mirrored ? 2.0 : 1.0);
    sum += value;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp != 0) return;
  double* const target = is_pair ? s.products + task * e.n : s.sums + (task - s.pairs) * e.n;
  // Row sums of panels add to what the columns of earlier panels have left there.
  target[e.row_begin + i] = is_pair || s.whole ? sum : target[e.row_begin + i] + sum;
}

// Adds the columns beyond the panel's own rows to the sums of the rows they mirror: a thread per column.
__global__ void __launch_bounds__(kBlock) column_sums_kernel(SumsArguments s) {
  const Entries& e = s.e;
  const int64_t j = e.rows + static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (j >= e.columns) return;
  double sum = 0;
  for (int64_t i = 0; i < e.rows; ++i) sum += gram_at(e, s.slots[blockIdx.y], i, j);
  s.sums[blockIdx.y * e.n + e.column_begin + j] += sum;
}

struct ValuesArguments {
  const double *sums, *products;
  double* values;
  int first[kMostPairs], second[kMostPairs];  // variables
  int kinds[kMostVariables];
  const double* parameters;
  int width;  // parameters of a variable
  bool unbiased;
  int64_t n;
  Estimator constants;
};

__global__ void __launch_bounds__(kBlock) values_kernel(const __grid_constant__ ValuesArguments v) {
  __shared__ double scratch[kBlock / kWarp];
  const int p = static_cast<int>(blockIdx.x);
  const double *const k = v.sums + v.first[p] * v.n, *const l = v.sums + v.second[p] * v.n;
  double product = 0, cross = 0, k_total = 0, l_total = 0;
  for (int64_t i = threadIdx.x; i < v.n; i += kBlock) {
    product += v.products[p * v.n + i];
    cross += k[i] * l[i];
    k_total += k[i];
    l_total += l[i];
  }
  product = block_sum(product, scratch);
  cross = block_sum(cross, scratch);
  k_total = block_sum(k_total, scratch);
  l_total = block_sum(l_total, scratch);
  bool lost = false;
  for (const int a : {v.first[p], v.second[p]})
    lost |= v.unbiased && rows_are_lost(static_cast<KernelKind>(v.kinds[a]), v.sums + a * v.n, v.n,
                                        v.parameters + a * v.width, scratch, kUnbiasedMargin);
  if (threadIdx.x == 0)
    v.values[p] = (lost ? NAN : 0.0) + v.constants.scale * ((product + v.constants.pair * cross) +
                                                            v.constants.total * k_total * l_total);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> hsic_cuda(std::vector<Tensor> variables, Tensor parameters,
                                             std::vector<int64_t> kinds, std::vector<int64_t> first,
                                             std::vector<int64_t> second, bool unbiased, int64_t tile,
                                             int64_t kept_tiles, bool tf32) {
  const char* const op = "hsic";
  const OnDevice guard(parameters);
  const HsicGroup g = hsic_group(op, variables, parameters, kinds, first, second, {}, tf32);
  const int64_t n = g.list.n, count = g.variables(), features = g.list.count();
  const auto pairs = static_cast<int64_t>(first.size());
  STD_TORCH_CHECK(tile >= n || kept_tiles == 0, op, ": on this device either all is kept (tile >= n = ", n,
                  ") or nothing is (kept_tiles = 0)");
  STD_TORCH_CHECK(tile >= n || g.features_only(), op,
                  ": Gram matrices and second labels have no streaming form");
  STD_TORCH_CHECK(tile >= 1, op, ": tile must be positive");
  const bool whole = tile >= n;
  const Tensor sums = whole ? torch::stable::new_empty(parameters, {count, n})
                            : torch::stable::new_zeros(parameters, {count, n});
  const Tensor products = torch::stable::new_empty(parameters, {pairs, n});
  const Tensor values = torch::stable::new_empty(parameters, {pairs});

  SumsArguments s{};
  s.pairs = static_cast<int>(pairs);
  s.variables = static_cast<int>(count);
  s.sums = static_cast<double*>(sums.mutable_data_ptr());
  s.products = static_cast<double*>(products.mutable_data_ptr());
  s.unbiased = unbiased;
  s.whole = whole;
  std::copy(g.slots.begin(), g.slots.end(), s.slots);
  ValuesArguments v{};
  v.sums = s.sums;
  v.products = s.products;
  v.values = static_cast<double*>(values.mutable_data_ptr());
  v.parameters = static_cast<const double*>(parameters.const_data_ptr());
  v.width = static_cast<int>(g.list.width);
  v.unbiased = unbiased;
  v.n = n;
  v.constants = estimator(n, unbiased);
  std::copy(kinds.begin(), kinds.end(), v.kinds);
  for (int64_t p = 0; p < pairs; ++p) {
    v.first[p] = static_cast<int>(first[p]);
    v.second[p] = static_cast<int>(second[p]);
    s.first[p] = g.slots[first[p]];
    s.second[p] = g.slots[second[p]];
  }
  const auto add = [&](const Tensor& panels, int64_t begin) {
    s.e = g.entries(panels, begin, begin);
    const auto tasks = static_cast<unsigned>(pairs + count);
    launch(op, sums, row_sums_kernel, dim3(static_cast<unsigned>(ceil_div(s.e.rows, kRowsPerBlock)), tasks),
           0, s);
    if (s.e.columns > s.e.rows)
      launch(
          op, sums, column_sums_kernel,
          dim3(static_cast<unsigned>(ceil_div(s.e.columns - s.e.rows, kBlock)), static_cast<unsigned>(count)),
          0, s);
  };

  Tensor kept = empty_like_with(parameters, {features, whole ? 1 : 0, whole ? n : tile, whole ? n : tile},
                                ScalarType::Float);
  if (whole) {
    const Tensor grams = torch::stable::view(kept, {features, n, n});
    fill_grams(op, g.list, parameters, grams);
    add(g.with_extra(op, grams, variables), 0);
  } else {
    std::vector<Tensor> norms;
    for (const Features& f : g.list.features) norms.push_back(squared_norms(op, f, parameters, n));
    const Tensor buffer = empty_like_with(parameters, {features * tile * n}, ScalarType::Float);
    for (int64_t begin = 0; begin < n; begin += tile) {
      const int64_t rows = std::min(tile, n - begin), columns = n - begin;
      const Tensor panels = torch::stable::view(
          torch::stable::narrow(const_cast<Tensor&>(buffer), 0, 0, features * rows * columns),
          {features, rows, columns});
      float* const out = static_cast<float*>(panels.mutable_data_ptr());
      for (int64_t k = 0; k < features; ++k)
        gram_panel(op, g.list.features[k], norms[k], parameters,
                   {out + k * rows * columns, columns, n, begin, rows, begin, columns, true});
      add(panels, begin);
    }
  }
  if (pairs > 0) launch(op, sums, values_kernel, dim3(static_cast<unsigned>(pairs)), 0, v);
  return {values, sums, kept};
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) { m.impl("hsic", TORCH_BOX(&bido::hsic_cuda)); }
