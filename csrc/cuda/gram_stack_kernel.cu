// SPDX-License-Identifier: Apache-2.0
//
// gram_stack on CUDA:  the Gram matrices up to centering of a group of variables over the same samples,
// [m, n, n], and the gradients of the features. For few samples the products of all variables are one launch
// (gram_products.cu), and so are their gradients (weighted_product.cu).
#include "gram_weights.h"
#include "group.h"
#include "library.h"

namespace bido {

Tensor double_center_cuda(Tensor k);

namespace {

struct WeightsArguments {
  const float *grad, *stack;
  const double* parameters;
  const double* means;  // [m, n, 2] MeanOfK, the whole in the place of the first row; null if it holds K
  float* weights;
  int64_t n;
  int width;  // parameters of a variable
  int kinds[kMostPerLaunch];
};

// A row per warp: its MeanOfK, [m, n, 2]. Then one block per variable: that of all, in the place of the
// first.
__global__ void __launch_bounds__(kBlock) row_means_kernel(const float* stack, double* means, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kBlock / kWarp) + threadIdx.x / kWarp;
  if (i >= n) return;  // a whole warp
  const int64_t row = static_cast<int64_t>(blockIdx.y) * n + i;
  MeanOfK mean;
  for (int64_t j = threadIdx.x % kWarp; j < n; j += kWarp) mean.add(stack[row * n + j]);
  mean.sum = warp_sum(mean.sum);
  mean.count = warp_sum(mean.count);
  if (threadIdx.x % kWarp != 0) return;
  means[2 * row] = mean.sum;
  means[2 * row + 1] = mean.count;
}

__global__ void __launch_bounds__(kBlock) join_means_kernel(double* means, int64_t n) {
  __shared__ double scratch[kBlock / kWarp];
  double* const own = means + static_cast<int64_t>(blockIdx.x) * 2 * n;
  double sum = 0, count = 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) {
    sum += own[2 * i];
    count += own[2 * i + 1];
  }
  sum = block_sum(sum, scratch);
  count = block_sum(count, scratch);
  if (threadIdx.x != 0) return;
  own[0] = sum;
  own[1] = count;
}

// 32 x 32 entries per block; the transposed gradient comes through shared memory.
__global__ void __launch_bounds__(kBlock) gram_weights_kernel(const __grid_constant__ WeightsArguments w) {
  __shared__ float mirror[32][33];
  const int64_t base = static_cast<int64_t>(blockIdx.z) * w.n * w.n;
  const int64_t i_begin = static_cast<int64_t>(blockIdx.x) * 32,
                j_begin = static_cast<int64_t>(blockIdx.y) * 32;
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  for (int r = line; r < 32; r += kBlock / 32) {
    const int64_t j = j_begin + r, i = i_begin + lane;
    mirror[r][lane] = i < w.n && j < w.n ? w.grad[base + j * w.n + i] : 0.0f;
  }
  __syncthreads();
  const auto kind = static_cast<KernelKind>(w.kinds[blockIdx.z]);
  const double* const parameters = w.parameters + blockIdx.z * w.width;
  const KernelParameters<float> own = parameters_of(kind, parameters);
  const bool is_k = w.means == nullptr;
  const double* const mean = is_k ? nullptr : w.means + blockIdx.z * 2 * w.n;
  const float nan_or_zero = is_k ? 0.0f : nan_if_weights_lost(kind, mean[0], mean[1], parameters);
  for (int r = line; r < 32; r += kBlock / 32) {
    const int64_t i = i_begin + r, j = j_begin + lane;
    if (i >= w.n || j >= w.n) continue;
    const int64_t at = base + i * w.n + j;
    const float g = 0.5f * (w.grad[at] + mirror[lane][r]);
    const float weight =
        is_k ? feature_weight(kind, w.stack[at], g, own, 0.0f) : weight_at(kind, w.stack[at], g, own);
    // The diagonal cancels against itself; its round-off would drown small weights.
    w.weights[at] = (i == j && kind != KernelKind::linear ? 0.0f : weight) + nan_or_zero;
  }
}

}  // namespace

Tensor gram_weights(const char* op, const Tensor& grad, const Tensor& stack, const Tensor& parameters,
                    const std::vector<int64_t>& kinds, bool is_k) {
  STD_TORCH_CHECK(stack.dim() == 3, op, ": Gram matrices must be float32 (m, n, n)");
  const int64_t count = stack.size(0), n = stack.size(1);
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float && stack.scalar_type() == ScalarType::Float &&
                      grad.is_contiguous() && stack.is_contiguous() && grad.numel() == stack.numel() &&
                      stack.size(2) == n &&
                      parameters.numel() / parameters_per_variable(parameters) == count &&
                      static_cast<int64_t>(kinds.size()) == count,
                  op, ": gradients and Gram matrices must be float32 (m, n, n)");
  const Tensor weights = empty_like_with(stack, {count, n, n}, ScalarType::Float);
  const int64_t width = parameters_per_variable(parameters);
  Tensor means;
  if (!is_k) {
    means = torch::stable::new_empty(parameters, {count, n, 2});
    launch(op, weights, row_means_kernel,
           dim3(static_cast<unsigned>(ceil_div(n, kBlock / kWarp)), static_cast<unsigned>(count)), 0,
           static_cast<const float*>(stack.const_data_ptr()), static_cast<double*>(means.mutable_data_ptr()),
           n);
    launch(op, weights, join_means_kernel, dim3(static_cast<unsigned>(count)), 0,
           static_cast<double*>(means.mutable_data_ptr()), n);
  }
  for (int64_t begin = 0; begin < count; begin += kMostPerLaunch) {
    const int64_t here = count - begin < kMostPerLaunch ? count - begin : kMostPerLaunch;
    WeightsArguments w{static_cast<const float*>(grad.const_data_ptr()) + begin * n * n,
                       static_cast<const float*>(stack.const_data_ptr()) + begin * n * n,
                       static_cast<const double*>(parameters.const_data_ptr()) + begin * width,
                       is_k ? nullptr : static_cast<const double*>(means.const_data_ptr()) + begin * 2 * n,
                       static_cast<float*>(weights.mutable_data_ptr()) + begin * n * n,
                       n,
                       static_cast<int>(width),
                       {}};
    for (int64_t k = 0; k < here; ++k) w.kinds[k] = static_cast<int>(kinds[begin + k]);
    const auto blocks = static_cast<unsigned>(ceil_div(n, 32));
    launch(op, weights, gram_weights_kernel, dim3(blocks, blocks, static_cast<unsigned>(here)), 0, w);
  }
  for (int64_t k = 0; k < count; ++k) {
    if (kinds[k] != static_cast<int64_t>(KernelKind::linear)) continue;
    Tensor own = torch::stable::select(weights, 0, k);
    torch::stable::copy_(own, double_center_cuda(own));
  }
  return weights;
}

std::vector<Tensor> in_dtype_of(const std::vector<Tensor>& grads, const std::vector<Tensor>& like) {
  std::vector<Tensor> result;
  for (size_t k = 0; k < grads.size(); ++k)
    result.push_back(grads[k].scalar_type() == like[k].scalar_type()
                         ? grads[k]
                         : torch::stable::to(grads[k], like[k].scalar_type()));
  return result;
}

Tensor gram_stack_cuda(std::vector<Tensor> variables, Tensor parameters, std::vector<int64_t> kinds,
                       bool tf32) {
  const char* const op = "gram_stack";
  const OnDevice guard(parameters);
  FeatureList list = features_of(op, variables, parameters, kinds, tf32);
  const int64_t n = list.n, count = static_cast<int64_t>(kinds.size());
  Tensor stack = empty_like_with(parameters, {count, n, n}, ScalarType::Float);
  for (int64_t k = 0; k < list.count(); ++k) list.features[k].slot = static_cast<int>(list.index[k]);
  fill_grams(op, list, parameters, stack);
  for (int64_t v = 0; v < count; ++v) {
    if (is_features(kinds[v])) continue;
    fill_given(op, variables[v], static_cast<const double*>(parameters.const_data_ptr()) + v * list.width,
               torch::stable::select(stack, 0, v));
  }
  return stack;
}

std::vector<Tensor> gram_stack_backward_cuda(Tensor grad, Tensor stack, std::vector<Tensor> variables,
                                             Tensor parameters, std::vector<int64_t> kinds, bool tf32) {
  const char* const op = "gram_stack_backward";
  const OnDevice guard(parameters);
  const FeatureList list = features_of(op, variables, parameters, kinds, tf32);
  STD_TORCH_CHECK(list.count() == static_cast<int64_t>(kinds.size()), op, ": only features have a gradient");
  check_same_device(op, parameters, {grad, stack});
  for (const Tensor& given : {grad, stack})
    STD_TORCH_CHECK(given.dim() == 3 && given.size(0) == list.count() && given.size(1) == list.n &&
                        given.size(2) == list.n,
                    op, ": gradients and Gram matrices must be (m, n, n)");
  const Tensor weights = gram_weights(op, torch::stable::contiguous(grad), torch::stable::contiguous(stack),
                                      parameters, kinds, false);
  std::vector<Tensor> outs;
  for (int64_t k = 0; k < list.count(); ++k)
    outs.push_back(
        empty_like_with(list.tensors[k], {list.n, list.features[k].d}, list.tensors[k].scalar_type()));
  weighted_products(op, weights, list, outs, 0);
  return in_dtype_of(outs, variables);
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) {
  m.impl("gram_stack", TORCH_BOX(&bido::gram_stack_cuda));
  m.impl("gram_stack_backward", TORCH_BOX(&bido::gram_stack_backward_cuda));
}
