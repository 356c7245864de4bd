// SPDX-License-Identifier: Apache-2.0
//
// gaussian_gram on CUDA:  K_ij = exp(-gamma |x_i - x_j|^2), or E = K - 1 by expm1.
//
// Three launches: column means; squared norms of the centred rows; then one block of 16 x 16 threads
// per 64 x 64 tile on or above the diagonal, float32 (or float64) multiply-add over slices of 16
// columns in shared memory, with the kernel value and its mirror image written by the epilogue.
// This is the plain first kernel: correct in any dtype, no tensor cores. Status: compiled, never run
// on hardware; it serves where Triton cannot, after a self-check, or under BIDO_EXT_BACKEND=native.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../common/cuda_stream.h"
#include "../common/gaussian.h"
#include "../common/stable.h"

namespace bido {
namespace {

constexpr int kTile = 64;     // rows and columns of the output per block
constexpr int kSlice = 16;    // columns of x in shared memory at a time
constexpr int kThreads = 16;  // per tile side; each thread owns 4 x 4 outputs
constexpr int kPerThread = kTile / kThreads;

template <typename Acc, typename In>
__device__ Acc load(const In* x, int64_t index) {
  return static_cast<Acc>(x[index]);
}

template <typename Acc, typename In>
__global__ void column_means_kernel(const In* x, Acc* means, int64_t n, int64_t d) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= d) return;
  Acc sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += load<Acc>(x, i * d + j);
  means[j] = sum / static_cast<Acc>(n);
}

// One warp per row; the order of the sum is fixed by the shuffle tree.
template <typename Acc, typename In>
__global__ void squared_norms_kernel(const In* x, const Acc* means, Acc* norms, int64_t n, int64_t d) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= n) return;
  Acc sum = 0;
  for (int64_t j = threadIdx.x; j < d; j += 32) {
    const Acc v = load<Acc>(x, i * d + j) - means[j];
    sum += v * v;
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) norms[i] = sum;
}

template <typename Acc, typename In>
__device__ void load_slice(Acc (*shared)[kTile + 1], const In* x, const Acc* means, int64_t row0,
                           int64_t column0, int64_t n, int64_t d) {
  const int thread = threadIdx.y * kThreads + threadIdx.x;
  for (int k = thread; k < kTile * kSlice; k += kThreads * kThreads) {
    const int64_t i = row0 + k / kSlice, j = column0 + k % kSlice;
    shared[k % kSlice][k / kSlice] = i < n && j < d ? load<Acc>(x, i * d + j) - means[j] : Acc(0);
  }
}

template <typename Acc, typename In, typename Gamma>
__global__ void __launch_bounds__(kThreads* kThreads)
    gaussian_gram_fwd_kernel(const In* x, const Acc* means, const Acc* norms, const Gamma* gamma, Acc* out,
                             int64_t n, int64_t d, bool minus_one) {
  __shared__ Acc left[kSlice][kTile + 1], right[kSlice][kTile + 1];
  const TileIndex tile = upper_tile(blockIdx.x);
  const int64_t row0 = tile.row * kTile, column0 = tile.column * kTile;
  Acc sums[kPerThread][kPerThread] = {};
  for (int64_t slice = 0; slice < d; slice += kSlice) {
    load_slice<Acc>(left, x, means, row0, slice, n, d);
    load_slice<Acc>(right, x, means, column0, slice, n, d);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSlice; ++k) {
#pragma unroll
      for (int a = 0; a < kPerThread; ++a) {
        const Acc v = left[k][threadIdx.y + a * kThreads];
#pragma unroll
        for (int b = 0; b < kPerThread; ++b) sums[a][b] += v * right[k][threadIdx.x + b * kThreads];
      }
    }
    __syncthreads();
  }
  const Acc g = static_cast<Acc>(*gamma);
#pragma unroll
  for (int a = 0; a < kPerThread; ++a) {
#pragma unroll
    for (int b = 0; b < kPerThread; ++b) {
      const int64_t i = row0 + threadIdx.y + a * kThreads, j = column0 + threadIdx.x + b * kThreads;
      if (i >= n || j >= n || j < i) continue;
      const Acc exponent = -g * squared_distance(norms[i], norms[j], sums[a][b]);
      Acc value = minus_one ? expm1_nonpositive(exponent) : exp_nonpositive(exponent);
      if (i == j) value = diagonal_minus_one(norms[i]) + Acc(minus_one ? 0 : 1);
      out[i * n + j] = value;
      out[j * n + i] = value;
    }
  }
}

template <typename Acc, typename In, typename Gamma>
void launch(const Tensor& x, const Tensor& gamma, const Tensor& out, bool minus_one) {
  const int64_t n = x.size(0), d = x.size(1);
  const Tensor means = empty_like_with(x, {d}, out.scalar_type());
  const Tensor norms = empty_like_with(x, {n}, out.scalar_type());
  const cudaStream_t stream = current_cuda_stream(x.get_device_index());
  const In* source = static_cast<const In*>(x.const_data_ptr());
  Acc* mean = static_cast<Acc*>(means.mutable_data_ptr());
  Acc* norm = static_cast<Acc*>(norms.mutable_data_ptr());
  column_means_kernel<Acc, In><<<(d + 127) / 128, 128, 0, stream>>>(source, mean, n, d);
  squared_norms_kernel<Acc, In><<<(n + 7) / 8, dim3(32, 8), 0, stream>>>(source, mean, norm, n, d);
  gaussian_gram_fwd_kernel<Acc, In, Gamma>
      <<<upper_tile_count((n + kTile - 1) / kTile), dim3(kThreads, kThreads), 0, stream>>>(
          source, mean, norm, static_cast<const Gamma*>(gamma.const_data_ptr()),
          static_cast<Acc*>(out.mutable_data_ptr()), n, d, minus_one);
  check_launch("gaussian_gram");
}

template <typename Acc, typename In>
void launch_for_gamma(const Tensor& x, const Tensor& gamma, const Tensor& out, bool minus_one) {
  if (gamma.scalar_type() == ScalarType::Double) {
    launch<Acc, In, double>(x, gamma, out, minus_one);
  } else {
    launch<Acc, In, float>(x, gamma, out, minus_one);
  }
}

}  // namespace

Tensor gaussian_gram_cuda(Tensor x, Tensor gamma, bool minus_one) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) >= 1 && x.size(1) >= 1,
                  "gaussian_gram: x must be (n, d) with n, d >= 1");
  STD_TORCH_CHECK(gamma.numel() == 1 && gamma.is_cuda(),
                  "gaussian_gram: gamma must be one number on the device of x");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  x = torch::stable::contiguous(x);
  const int64_t n = x.size(0);
  const Tensor out = empty_like_with(x, {n, n}, accumulation_dtype(x.scalar_type()));
  switch (x.scalar_type()) {
    case ScalarType::Double:
      launch_for_gamma<double, double>(x, gamma, out, minus_one);
      break;
    case ScalarType::Float:
      launch_for_gamma<float, float>(x, gamma, out, minus_one);
      break;
    case ScalarType::BFloat16:
      launch_for_gamma<float, __nv_bfloat16>(x, gamma, out, minus_one);
      break;
    case ScalarType::Half:
      launch_for_gamma<float, __half>(x, gamma, out, minus_one);
      break;
    default:
      STD_TORCH_CHECK(false, "bido_ext: features must be float64, float32, bfloat16 or float16");
  }
  return out;
}

}  // namespace bido

// A namespace of its own: which implementation serves bido_ext::gaussian_gram is chosen in Python.
STABLE_TORCH_LIBRARY(bido_cuda, m) {
  m.def("gaussian_gram(Tensor x, Tensor gamma, bool minus_one) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cuda, CUDA, m) {
  m.impl("gaussian_gram", TORCH_BOX(&bido::gaussian_gram_cuda));
}
