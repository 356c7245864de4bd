// SPDX-License-Identifier: Apache-2.0
//
// Gradients of a weighted sum of HSIC values:  grad_x = (A - diag(A 1)) x,
//   A = feature_weight(G),  G = sum_b c_b (L_b + (pair / 2) (l_i + l_j) + total 1'l),
// with G zero on the diagonal for the unbiased estimator. The weights go by panels of rows even where the
// Gram matrices are kept, since one more n x n matrix would be needed; few samples: all variables at once.
#include <algorithm>

#include "gram_weights.h"
#include "hsic_group.h"
#include "library.h"

namespace bido {
namespace {

constexpr int64_t kGroupedUpTo = 1024;  // rows up to which the weights of all variables are made together
constexpr int64_t kWeightRows = 4096;  // rows of weights that exist at a time (planner.h has the same number)
constexpr int kRowsPerBlock = kBlock / kWarp;

struct WeightsArguments {
  Entries e;
  const double *grad, *sums, *parameters;
  float* weights;  // [wanted, rows, n]
  int slots[kMostVariables];
  int wanted[kMostVariables], kinds[kMostVariables];
  int first[kMostPairs], second[kMostPairs];
  int pairs, variables, width;  // parameters of a variable
  Estimator constants;
  bool unbiased;
};

// A row of weights per warp. Each block first adds up, for its variable, what the gradients of its pairs make
// of every partner: their coefficients and the constant of its own shift.
__global__ void __launch_bounds__(kBlock) hsic_weights_kernel(const __grid_constant__ WeightsArguments w) {
  __shared__ double scratch[kBlock / kWarp];
  __shared__ double coefficients[kMostVariables];
  const Entries& e = w.e;
  const int own = w.wanted[blockIdx.y];
  for (int b = threadIdx.x; b < w.variables; b += kBlock) {
    double c = 0;
    for (int p = 0; p < w.pairs; ++p)  // a pair of a variable with itself counts twice
      c += ((w.first[p] == own && w.second[p] == b) + (w.second[p] == own && w.first[p] == b)) * w.grad[p];
    coefficients[b] = w.constants.scale * c;
  }
  __syncthreads();
  double constant = 0;
  for (int b = 0; b < w.variables; ++b) {
    if (coefficients[b] == 0) continue;  // the same in every thread
    double total = 0;
    for (int64_t j = threadIdx.x; j < e.n; j += kBlock) total += w.sums[b * e.n + j];
    constant += coefficients[b] * w.constants.total * block_sum(total, scratch);
  }
  const auto kind = static_cast<KernelKind>(w.kinds[own]);
  const double* const parameters = w.parameters + own * w.width;
  bool lost = rows_are_lost(kind, w.sums + own * e.n, e.n, parameters, scratch);
  for (int b = 0; w.unbiased && b < w.variables; ++b)
    if (coefficients[b] != 0)
      lost |= rows_are_lost(static_cast<KernelKind>(w.kinds[b]), w.sums + b * e.n, e.n,
                            w.parameters + b * w.width, scratch, kUnbiasedMargin);
  const float nan_or_zero = lost ? NAN : 0.0f;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
  if (i >= e.rows) return;  // a whole warp
  for (int b = 0; b < w.variables; ++b)
    if (coefficients[b] != 0)
      constant += coefficients[b] * 0.5 * w.constants.pair * w.sums[b * e.n + e.row_begin + i];
  const KernelParameters<float> of_kernel = parameters_of(kind, parameters);
  // The diagonal cancels against itself; its round-off would drown small weights.
  const bool no_diagonal = w.unbiased || (kind != KernelKind::linear && kind != KernelKind::gram);
  float* const out = w.weights + (blockIdx.y * e.rows + i) * e.n;
  for (int64_t j = threadIdx.x % kWarp; j < e.n; j += kWarp) {
    double g = constant;
    for (int b = 0; b < w.variables; ++b)
      if (coefficients[b] != 0)
        g += coefficients[b] * (gram_at(e, w.slots[b], i, j) + 0.5 * w.constants.pair * w.sums[b * e.n + j]);
    const float weight =
        weight_at(kind, static_cast<float>(gram_at(e, w.slots[own], i, j)), static_cast<float>(g), of_kernel);
    out[j] = (no_diagonal && e.row_begin + i == j ? 0.0f : weight) + nan_or_zero;
  }
}

}  // namespace

std::vector<Tensor> hsic_backward_cuda(Tensor grad, std::vector<Tensor> variables, Tensor parameters,
                                       Tensor sums, Tensor tiles, std::vector<int64_t> kinds,
                                       std::vector<int64_t> first, std::vector<int64_t> second, bool unbiased,
                                       int64_t tile, std::vector<int64_t> wanted, bool tf32) {
  const char* const op = "hsic_backward";
  const OnDevice guard(parameters);
  STD_TORCH_CHECK(!variables.empty(), op, ": needs variables");
  const bool dense = tile >= variables[0].size(0);
  // Where the Gram matrices are kept, only the gradients' own products read features.
  const HsicGroup g =
      hsic_group(op, variables, parameters, kinds, first, second, wanted, tf32, dense ? &wanted : nullptr);
  const int64_t n = g.list.n, features = g.list.count();
  STD_TORCH_CHECK(
      grad.scalar_type() == ScalarType::Double && grad.numel() == static_cast<int64_t>(first.size()) &&
          sums.scalar_type() == ScalarType::Double && sums.numel() == g.variables() * n && tile >= 1,
      op, ": the gradients and the row sums must be those of the forward");
  check_same_device(op, parameters, {grad, sums, tiles});
  STD_TORCH_CHECK(!dense || (tiles.scalar_type() == ScalarType::Float && tiles.numel() == features * n * n),
                  op, ": the kept matrices must be those of the forward");
  STD_TORCH_CHECK(dense || g.features_only(), op, ": Gram matrices and second labels have no streaming form");
  grad = torch::stable::contiguous(grad);
  sums = torch::stable::contiguous(sums);
  const int64_t rows = dense ? std::min(n, kWeightRows) : tile;
  Tensor panels =
      dense ? g.with_extra(op, torch::stable::view(torch::stable::contiguous(tiles), {features, n, n}),
                           variables)
            : empty_like_with(parameters, {features, rows, n}, ScalarType::Float);
  std::vector<Tensor> norms;
  if (!dense)
    for (const Features& f : g.list.features) norms.push_back(squared_norms(op, f, parameters, n));

  std::vector<Tensor> outs, like;
  for (const int64_t v : wanted) {
    STD_TORCH_CHECK(v >= 0 && v < g.variables() && kinds[v] != static_cast<int64_t>(KernelKind::labels), op,
                    ": labels have no gradient");
    const int64_t k = g.list.find(v);
    like.push_back(variables[v]);
    outs.push_back(empty_like_with(parameters, {n, variables[v].size(1)},
                                   k < 0 ? ScalarType::Float : g.list.tensors[k].scalar_type()));
  }
  WeightsArguments w{};
  w.grad = static_cast<const double*>(grad.const_data_ptr());
  w.sums = static_cast<const double*>(sums.const_data_ptr());
  w.parameters = static_cast<const double*>(parameters.const_data_ptr());
  w.pairs = static_cast<int>(first.size());
  w.variables = static_cast<int>(g.variables());
  w.width = static_cast<int>(g.list.width);
  w.constants = estimator(n, unbiased);
  w.unbiased = unbiased;
  std::copy(g.slots.begin(), g.slots.end(), w.slots);
  std::copy(kinds.begin(), kinds.end(), w.kinds);
  std::copy(first.begin(), first.end(), w.first);
  std::copy(second.begin(), second.end(), w.second);

  const auto at_once = dense && n <= kGroupedUpTo ? static_cast<int64_t>(wanted.size()) : int64_t{1};
  for (int64_t begin = 0; begin < n; begin += rows) {
    const int64_t height = std::min(rows, n - begin);
    Tensor here = torch::stable::narrow(panels, 1, dense ? begin : 0, height);
    if (!dense)
      for (int64_t k = 0; k < features; ++k)
        gram_panel(
            op, g.list.features[k], norms[k], parameters,
            {static_cast<float*>(panels.mutable_data_ptr()) + k * rows * n, n, n, begin, height, 0, n, true});
    w.e = g.entries(here, begin, 0);
    for (size_t k = 0; k < wanted.size(); k += at_once) {
      const size_t last = std::min(wanted.size(), k + at_once);
      // Features first, so that their weights lie together.
      std::vector<size_t> order;
      std::vector<int64_t> places;
      std::vector<Tensor> feature_outs;
      for (const bool of_features : {true, false})
        for (size_t q = k; q < last; ++q)
          if ((g.list.find(wanted[q]) >= 0) == of_features) order.push_back(q);
      for (size_t q = 0; q < order.size(); ++q) {
        w.wanted[q] = static_cast<int>(wanted[order[q]]);
        if (const int64_t place = g.list.find(wanted[order[q]]); place >= 0) {
          places.push_back(place);
          feature_outs.push_back(outs[order[q]]);
        }
      }
      const auto count = static_cast<int64_t>(order.size()), made = static_cast<int64_t>(places.size());
      Tensor weights = empty_like_with(parameters, {count, height, n}, ScalarType::Float);
      w.weights = static_cast<float*>(weights.mutable_data_ptr());
      launch(op, weights, hsic_weights_kernel,
             dim3(static_cast<unsigned>(ceil_div(height, kRowsPerBlock)), static_cast<unsigned>(count)), 0,
             w);
      if (made > 0)
        weighted_products(op, torch::stable::narrow(weights, 0, 0, made), some_of(g.list, places),
                          feature_outs, begin);
      for (int64_t q = made; q < count; ++q) {  // the gradient of a Gram matrix is G itself
        Tensor target = torch::stable::narrow(outs[order[q]], 0, begin, height);
        torch::stable::copy_(target, torch::stable::select(weights, 0, q));
      }
    }
  }
  return in_dtype_of(outs, like);
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) { m.impl("hsic_backward", TORCH_BOX(&bido::hsic_backward_cuda)); }
