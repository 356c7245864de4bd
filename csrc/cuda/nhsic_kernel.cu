// SPDX-License-Identifier: Apache-2.0
//
// nhsic on CUDA for few samples (n <= 128, BiDO's batches): tr(S_K S_L), S = I - c P, P = (H K H + c I)^-1,
// c = eps n, for all variables and pairs of a step in five launches forward and three backward.
//
// A block per variable holds H K H + c I in its registers in float64, 16 x 16 threads with every 16th row and
// column each, and inverts it in place by Gauss-Jordan elimination. The matrix is positive definite, so no
// pivot is searched; one barrier a step, since the pivot's row and column go through two buffers in turn. A
// pivot that is not positive turns the result into NaN, as a failed Cholesky factorisation does elsewhere,
// and so does a float32 matrix that is too coarse for its inverse. Linear kernels are refused: their factors
// come from the features in float64 (bido_ext/ops/linear_factor.py).
//   G = c P (sum_b grad_b S_b) P,   A = feature_weight(G),   grad_x = (A - diag(A 1)) x
#include <algorithm>

#include "../common/partners.h"
#include "gram_weights.h"
#include "hsic_group.h"
#include "library.h"

namespace bido {
namespace {

constexpr int kMostRows = 128, kSide = 16;

struct FactorArguments {
  Entries e;
  int slots[kMostVariables];
  int inverse_place[kMostVariables], factor_place[kMostVariables];  // -1: not asked for
  bool exact[kMostVariables];                                       // labels
  double *inverses, *factors;
  double c;
};

template <int kOwn>  // rows and columns of a thread
__global__ void __launch_bounds__(kBlock) nhsic_factor_kernel(FactorArguments f) {
  __shared__ double means[kMostRows], pivot_row[2][kMostRows], pivot_column[2][kMostRows],
      scratch[kBlock / kWarp];
  const int v = static_cast<int>(blockIdx.x), n = static_cast<int>(f.e.n);
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  double a[kOwn][kOwn];
  double total = 0, squares = 0;
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    const int i = ty + r * kSide;
    double sum = 0;
#pragma unroll
    for (int s = 0; s < kOwn; ++s) {
      const int j = tx + s * kSide;
      a[r][s] = i < n && j < n ? gram_at(f.e, f.slots[v], i, j) : 0.0;
      sum += a[r][s];
      squares += a[r][s] * a[r][s];
    }
    sum = warp_sum(sum, kSide);
    if (tx == 0 && i < n) {
      means[i] = sum / n;
      total += sum;
    }
  }
  const double mean = block_sum(total, scratch) / n / n;
  squares = block_sum(squares, scratch);
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int s = 0; s < kOwn; ++s) {
      const int i = ty + r * kSide, j = tx + s * kSide;
      if (i < n && j < n) a[r][s] -= means[i] + means[j] - mean;
      if (i == j) a[r][s] = i < n ? a[r][s] + f.c : 1.0;
    }
  }
  for (int k = 0; k < n; ++k) {
    double *const row = pivot_row[k % 2], *const column = pivot_column[k % 2];
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
#pragma unroll
      for (int s = 0; s < kOwn; ++s) {
        if (ty + r * kSide == k) row[tx + s * kSide] = a[r][s];
        if (tx + s * kSide == k) column[ty + r * kSide] = a[r][s];
      }
    }
    __syncthreads();
    const double pivot = row[k], p = pivot > 0 ? 1 / pivot : NAN;
    // Column by column: only one entry of the pivot's row and those of its column are in registers.
    double of_column[kOwn];
#pragma unroll
    for (int r = 0; r < kOwn; ++r) of_column[r] = column[ty + r * kSide];
#pragma unroll
    for (int s = 0; s < kOwn; ++s) {
      const int j = tx + s * kSide;
      const bool pivot_here = j == k;
      const double scaled = pivot_here ? p : row[j] * p;
#pragma unroll
      for (int r = 0; r < kOwn; ++r) {
        const double entry = (pivot_here ? 0.0 : a[r][s]) - of_column[r] * scaled;
        a[r][s] = ty + r * kSide == k ? scaled : entry;
      }
    }
  }
  // |P| beside the direction of ones, where K is centered; the error of P is P (error of K) P.
  double of_inverse = 0;
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int s = 0; s < kOwn; ++s)
      if (ty + r * kSide < n && tx + s * kSide < n) of_inverse += a[r][s] * a[r][s];
  }
  const double beside = sqrt(fmax(block_sum(of_inverse, scratch) - 1 / (f.c * f.c), 0.0));
  const double roundoff = 1.1920929e-7 * sqrt(squares / n) * fmin(beside, 1 / f.c);
  const double nan_or_zero = f.exact[v] || roundoff <= kRidgeRoundoff ? 0.0 : NAN;
  const int64_t size = static_cast<int64_t>(n) * n;
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int s = 0; s < kOwn; ++s) {
      const int i = ty + r * kSide, j = tx + s * kSide;
      if (i >= n || j >= n) continue;
      a[r][s] += nan_or_zero;
      const int64_t at = static_cast<int64_t>(i) * n + j;
      if (f.inverse_place[v] >= 0) f.inverses[f.inverse_place[v] * size + at] = a[r][s];
      f.factors[f.factor_place[v] * size + at] = (i == j ? 1.0 : 0.0) - f.c * a[r][s];
    }
  }
}

struct TraceArguments {
  const double* factors;
  double* values;
  int first[kMostPairs], second[kMostPairs];  // places of the factors
  int64_t n;
};

__global__ void __launch_bounds__(kBlock) nhsic_trace_kernel(TraceArguments t) {
  __shared__ double scratch[kBlock / kWarp];
  const double* const a = t.factors + t.first[blockIdx.x] * t.n * t.n;
  const double* const b = t.factors + t.second[blockIdx.x] * t.n * t.n;
  double sum = 0;
  for (int64_t k = threadIdx.x; k < t.n * t.n; k += kBlock) sum += a[k] * b[k];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) t.values[blockIdx.x] = sum;
}

constexpr int kGradientRows = 8;  // of G per block

struct GradientArguments {
  const double *grad, *inverses, *factors, *parameters;
  const float* stack;
  float* weights;
  int wanted[kMostVariables], kinds[kMostVariables], partners[kMostVariables];
  int first[kMostPairs], second[kMostPairs];
  int pairs, partner_count, width;  // parameters of a variable
  int64_t n;
  double c;
};

// kGradientRows rows of A of one wanted variable: a thread holds four entries of a column.
__global__ void __launch_bounds__(kBlock) nhsic_weights_kernel(const __grid_constant__ GradientArguments g) {
  __shared__ double coefficients[kMostVariables], left[kGradientRows][kMostRows], scratch[kBlock / kWarp];
  const int n = static_cast<int>(g.n), w = static_cast<int>(blockIdx.y), own = g.wanted[w];
  const int j = threadIdx.x % kMostRows, half = threadIdx.x / kMostRows * (kGradientRows / 2);
  const int row0 = static_cast<int>(blockIdx.x) * kGradientRows + half;
  for (int b = threadIdx.x; b < g.partner_count; b += kBlock) {
    double c = 0;
    for (int p = 0; p < g.pairs; ++p)  // a pair of a variable with itself counts twice
      c += ((g.first[p] == own && g.second[p] == g.partners[b]) +
            (g.second[p] == own && g.first[p] == g.partners[b])) *
           g.grad[p];
    coefficients[b] = c;
  }
  __syncthreads();
  const int64_t size = g.n * g.n;
  const double* const P = g.inverses + w * size;
  const auto kind = static_cast<KernelKind>(g.kinds[own]);
  const double* const parameters = g.parameters + own * g.width;
  MeanOfK mean;
  for (int64_t k = threadIdx.x; k < size; k += kBlock) mean.add(g.stack[w * size + k]);
  mean.sum = block_sum(mean.sum, scratch);
  mean.count = block_sum(mean.count, scratch);
  const float nan_or_zero = nan_if_weights_lost(kind, mean.sum, mean.count, parameters);
  // Beside the direction of ones, along which P is 1 / c and the factors zero up to round-off.
  const double along = 1 / (g.c * static_cast<double>(n));
  double sums[kGradientRows / 2] = {};
  if (j < n)
    for (int k = 0; k < n; ++k) {
      double t = 0;
      for (int b = 0; b < g.partner_count; ++b)
        if (coefficients[b] != 0) t += coefficients[b] * g.factors[b * size + k * g.n + j];
#pragma unroll
      for (int r = 0; r < kGradientRows / 2; ++r)
        if (row0 + r < n) sums[r] += (P[(row0 + r) * g.n + k] - along) * t;
    }
#pragma unroll
  for (int r = 0; r < kGradientRows / 2; ++r) left[half + r][j] = sums[r];
  __syncthreads();
  if (j >= n) return;
  double result[kGradientRows / 2] = {};
  for (int k = 0; k < n; ++k) {
    const double p = P[k * g.n + j] - along;
#pragma unroll
    for (int r = 0; r < kGradientRows / 2; ++r) result[r] += left[half + r][k] * p;
  }
  const KernelParameters<float> of_kernel = parameters_of(kind, parameters);
#pragma unroll
  for (int r = 0; r < kGradientRows / 2; ++r) {
    const int i = row0 + r;
    if (i >= n) continue;
    const int64_t at = w * size + i * g.n + j;
    const float weight = weight_at(kind, g.stack[at], static_cast<float>(g.c * result[r]), of_kernel);
    g.weights[at] = (kind != KernelKind::gram && i == j ? 0.0f : weight) + nan_or_zero;
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> nhsic_cuda(std::vector<Tensor> variables, Tensor parameters,
                                                      std::vector<int64_t> kinds, std::vector<int64_t> first,
                                                      std::vector<int64_t> second, double eps, bool wide,
                                                      std::vector<int64_t> wanted, bool tf32) {
  const char* const op = "nhsic";
  const OnDevice guard(parameters);
  // Half-precision products are not centered; the inverse wants all digits.
  std::vector<Tensor> wide_variables = variables;
  for (size_t v = 0; v < variables.size() && v < kinds.size(); ++v)
    if (is_features(kinds[v]) && variables[v].scalar_type() != ScalarType::Double)
      wide_variables[v] = torch::stable::to(variables[v], ScalarType::Float);
  HsicGroup g = hsic_group(op, wide_variables, parameters, kinds, first, second, wanted, tf32);
  const int64_t n = g.list.n, count = g.variables(), pairs = static_cast<int64_t>(first.size());
  STD_TORCH_CHECK(n <= kMostRows && wide, op, ": the CUDA kernel takes n <= ", kMostRows,
                  " in float64 algebra");
  for (const int64_t kind : kinds)
    STD_TORCH_CHECK(kind != static_cast<int64_t>(KernelKind::linear), op,
                    ": the CUDA kernel takes no linear kernel, whose factor comes from the features");
  // The matrices of the wanted variables lie first: they are kept.
  std::vector<int64_t> order = wanted;
  for (int64_t v = 0; v < count; ++v)
    if (v != g.label_index && std::find(wanted.begin(), wanted.end(), v) == wanted.end()) order.push_back(v);
  for (size_t k = 0; k < order.size(); ++k) {
    STD_TORCH_CHECK(order[k] >= 0 && order[k] < count && order[k] != g.label_index, op,
                    ": labels have no gradient");
    g.slots[order[k]] = static_cast<int>(k);
    if (const int64_t place = g.list.find(order[k]); place >= 0)
      g.list.features[place].slot = static_cast<int>(k);
  }
  const auto matrices = static_cast<int64_t>(order.size()), kept = static_cast<int64_t>(wanted.size());
  Tensor grams = empty_like_with(parameters, {matrices, n, n}, ScalarType::Float);
  fill_grams(op, g.list, parameters, grams);
  for (const int64_t v : g.extra) {
    fill_given(op, variables[v], static_cast<const double*>(parameters.const_data_ptr()) + v * g.list.width,
               torch::stable::select(grams, 0, g.slots[v]));
  }

  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  Tensor inverses = torch::stable::new_empty(parameters, {kept, n, n});
  Tensor factors = torch::stable::new_empty(parameters, {count, n, n});
  const Tensor values = torch::stable::new_empty(parameters, {pairs});
  FactorArguments f{};
  f.e = g.entries(grams, 0, 0);
  f.e.n = n;
  f.c = eps * static_cast<double>(n);
  f.inverses = static_cast<double*>(inverses.mutable_data_ptr());
  f.factors = static_cast<double*>(factors.mutable_data_ptr());
  int next = static_cast<int>(partners.size());
  for (int64_t v = 0; v < count; ++v) {
    f.slots[v] = g.slots[v];
    f.exact[v] = kinds[v] == static_cast<int64_t>(KernelKind::labels);
    const auto own = std::find(wanted.begin(), wanted.end(), v);
    f.inverse_place[v] = own == wanted.end() ? -1 : static_cast<int>(own - wanted.begin());
    const auto partner = std::find(partners.begin(), partners.end(), v);
    f.factor_place[v] = partner == partners.end() ? next++ : static_cast<int>(partner - partners.begin());
  }
  const dim3 grid(static_cast<unsigned>(count));
  if (n <= 4 * kSide) {
    launch(op, grams, nhsic_factor_kernel<4>, grid, 0, f);
  } else {
    launch(op, grams, nhsic_factor_kernel<8>, grid, 0, f);
  }
  TraceArguments t{f.factors, static_cast<double*>(values.mutable_data_ptr()), {}, {}, n};
  for (int64_t p = 0; p < pairs; ++p) {
    t.first[p] = f.factor_place[first[p]];
    t.second[p] = f.factor_place[second[p]];
  }
  if (pairs > 0) launch(op, grams, nhsic_trace_kernel, dim3(static_cast<unsigned>(pairs)), 0, t);
  return {values, torch::stable::narrow(grams, 0, 0, kept), inverses,
          torch::stable::narrow(factors, 0, 0, static_cast<int64_t>(partners.size()))};
}

std::vector<Tensor> nhsic_backward_cuda(Tensor grad, std::vector<Tensor> variables, Tensor parameters,
                                        Tensor stack, Tensor inverses, Tensor factors,
                                        std::vector<int64_t> kinds, std::vector<int64_t> first,
                                        std::vector<int64_t> second, double eps, std::vector<int64_t> wanted,
                                        bool tf32) {
  const char* const op = "nhsic_backward";
  const OnDevice guard(parameters);
  const HsicGroup g = hsic_group(op, variables, parameters, kinds, first, second, wanted, tf32, &wanted);
  const int64_t n = g.list.n, count = static_cast<int64_t>(wanted.size());
  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  STD_TORCH_CHECK(n <= kMostRows && inverses.scalar_type() == ScalarType::Double &&
                      factors.scalar_type() == ScalarType::Double &&
                      grad.scalar_type() == ScalarType::Double && stack.scalar_type() == ScalarType::Float &&
                      stack.numel() == count * n * n && inverses.numel() == stack.numel() &&
                      grad.numel() == static_cast<int64_t>(first.size()) &&
                      factors.numel() == static_cast<int64_t>(partners.size()) * n * n,
                  op, ": what is given must be what the forward kept");
  check_same_device(op, parameters, {grad, stack, inverses, factors});
  grad = torch::stable::contiguous(grad);
  stack = torch::stable::contiguous(stack);
  inverses = torch::stable::contiguous(inverses);
  factors = torch::stable::contiguous(factors);
  Tensor weights = empty_like_with(parameters, {count, n, n}, ScalarType::Float);
  GradientArguments a{};
  a.grad = static_cast<const double*>(grad.const_data_ptr());
  a.inverses = static_cast<const double*>(inverses.const_data_ptr());
  a.factors = static_cast<const double*>(factors.const_data_ptr());
  a.parameters = static_cast<const double*>(parameters.const_data_ptr());
  a.stack = static_cast<const float*>(stack.const_data_ptr());
  a.weights = static_cast<float*>(weights.mutable_data_ptr());
  a.pairs = static_cast<int>(first.size());
  a.partner_count = static_cast<int>(partners.size());
  a.width = static_cast<int>(g.list.width);
  a.n = n;
  a.c = eps * static_cast<double>(n);
  std::copy(wanted.begin(), wanted.end(), a.wanted);
  std::copy(kinds.begin(), kinds.end(), a.kinds);
  std::copy(partners.begin(), partners.end(), a.partners);
  std::copy(first.begin(), first.end(), a.first);
  std::copy(second.begin(), second.end(), a.second);
  launch(op, weights, nhsic_weights_kernel,
         dim3(static_cast<unsigned>(ceil_div(n, kGradientRows)), static_cast<unsigned>(count)), 0, a);

  std::vector<Tensor> grads(wanted.size(), weights), outs;
  std::vector<int64_t> places;
  std::vector<size_t> targets;
  bool all_features = true;
  for (size_t k = 0; k < wanted.size(); ++k) {
    const int64_t place = g.list.find(wanted[k]);
    all_features = all_features && place >= 0;
    if (place < 0) {
      grads[k] = torch::stable::clone(torch::stable::select(weights, 0, static_cast<int64_t>(k)));
      continue;
    }
    targets.push_back(k);
    places.push_back(place);
    outs.push_back(
        empty_like_with(parameters, {n, g.list.features[place].d}, g.list.tensors[place].scalar_type()));
  }
  if (all_features) {
    weighted_products(op, weights, some_of(g.list, places), outs, 0);
  } else {  // Gram matrices of the user's own lie between the weights
    for (size_t q = 0; q < targets.size(); ++q)
      weighted_products(op, torch::stable::narrow(weights, 0, static_cast<int64_t>(targets[q]), 1),
                        some_of(g.list, {places[q]}), {outs[q]}, 0);
  }
  for (size_t q = 0; q < targets.size(); ++q) grads[targets[q]] = outs[q];
  std::vector<Tensor> like;
  for (const int64_t v : wanted) like.push_back(variables[v]);
  return in_dtype_of(grads, like);
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) {
  m.impl("nhsic", TORCH_BOX(&bido::nhsic_cuda));
  m.impl("nhsic_backward", TORCH_BOX(&bido::nhsic_backward_cuda));
}
