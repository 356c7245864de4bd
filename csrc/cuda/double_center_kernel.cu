// SPDX-License-Identifier: Apache-2.0
//
// double_center on CUDA:  H K H = K - row means - column means + total mean,  H = I - 11'/n.
// Row and column means in float64, one block each, then the subtraction. Self-adjoint: its own backward.
#include "device.cuh"
#include "library.h"

namespace bido {
namespace {

// A row (blockIdx.y = 0) or a column of K per warp; warps of a block read neighbouring columns together.
template <typename T>
__global__ void __launch_bounds__(kBlock) means_kernel(const T* k, int64_t row_stride, int64_t column_stride,
                                                       double* row_means, double* column_means, int64_t n) {
  const int64_t line = static_cast<int64_t>(blockIdx.x) * (kBlock / kWarp) + threadIdx.x / kWarp;
  if (line >= n) return;  // a whole warp
  const bool rows = blockIdx.y == 0;
  const int64_t start = line * (rows ? row_stride : column_stride), step = rows ? column_stride : row_stride;
  double sum = 0;
  for (int64_t at = threadIdx.x % kWarp; at < n; at += kWarp)
    sum += static_cast<double>(k[start + at * step]);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) (rows ? row_means : column_means)[line] = sum / static_cast<double>(n);
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    subtract_means_kernel(const T* k, int64_t row_stride, int64_t column_stride, const double* row_means,
                          const double* column_means, T* out, int64_t n) {
  __shared__ double scratch[kBlock / kWarp];
  double total = 0;
  for (int64_t j = threadIdx.x; j < n; j += kBlock) total += column_means[j];
  total = block_sum(total, scratch) / static_cast<double>(n);
  const int64_t i = blockIdx.x;
  const double shift = row_means[i] - total;
  for (int64_t j = threadIdx.x; j < n; j += kBlock)
    out[i * n + j] =
        static_cast<T>(static_cast<double>(k[i * row_stride + j * column_stride]) - column_means[j] - shift);
}

template <typename T>
void double_center(const Tensor& k, const Tensor& out) {
  const int64_t n = k.size(0);
  const Tensor means = empty_like_with(k, {2, n}, ScalarType::Double);
  double* const rows = static_cast<double*>(means.mutable_data_ptr());
  const T* const source = static_cast<const T*>(k.const_data_ptr());
  launch("double_center", k, means_kernel<T>, dim3(static_cast<unsigned>(ceil_div(n, kBlock / kWarp)), 2), 0,
         source, k.stride(0), k.stride(1), rows, rows + n, n);
  launch("double_center", k, subtract_means_kernel<T>, dim3(static_cast<unsigned>(n)), 0, source, k.stride(0),
         k.stride(1), static_cast<const double*>(rows), static_cast<const double*>(rows + n),
         static_cast<T*>(out.mutable_data_ptr()), n);
}

}  // namespace

Tensor double_center_cuda(Tensor k) {
  STD_TORCH_CHECK(k.dim() == 2 && k.size(0) == k.size(1), "double_center: K must be square");
  const OnDevice guard(k);
  Tensor out = empty_like_with(k, {k.size(0), k.size(1)}, k.scalar_type());
  switch (k.scalar_type()) {
    case ScalarType::Double:
      double_center<double>(k, out);
      break;
    case ScalarType::Float:
      double_center<float>(k, out);
      break;
    default:
      STD_TORCH_CHECK(false, "double_center: K must be float32 or float64");
  }
  return out;
}

}  // namespace bido

BIDO_CUDA_LIBRARY_IMPL(m) { m.impl("double_center", TORCH_BOX(&bido::double_center_cuda)); }
