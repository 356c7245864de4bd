// SPDX-License-Identifier: Apache-2.0
//
// permuted_products:         sum_ij K_ij L_p(i)p(j)  of symmetric K and L, for many permutations p.
// permuted_factor_products:  the same for K = A A', L = B B':  |A' B[p]|^2 in the Frobenius norm.
// permuted_class_sums:       the same for L_ij = [y_i = y_j], from the permuted labels y_p(i).
//
// Products: half of the pairs suffice, j <= i. A row of L stays in the first-level cache while all
// permutations of a chunk gather from it, each against the row of K that it sends there, which is read in
// order; indices take 16 bits up to n = 65536. Products and sums are in float64. K may be a panel of rows of
// the matrix. Factors: B lies in strips, so a permuted strip is a copy of whole vectors, and panel_block
// multiplies.
// Classes: no gathers. A row of K stays in cache while the labels of a chunk of permutations pass over it,
// and the entries of other classes are masked away.
//
// A permutation is summed by one thread in an order of its own: results do not depend on the threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "products.h"
#include "scratch.h"
#include "tasks.h"
#include "vectorize.h"

namespace bido {
namespace {

constexpr int64_t kChunk = 64;       // permutations that share the rows of L
constexpr int64_t kDepth = 256;      // rows of a permuted strip that stay in cache
constexpr int64_t kAhead = 512;      // bytes of the next row of K, after which the hardware sees it coming
constexpr int64_t kLabelChunk = 32;  // permuted labels that share a row of K
constexpr int kGatherLanes = 2 * kLanes;

template <typename T, typename Index>
BIDO_VECTORIZE double gathered_product(const T* k, const T* l, const Index* p, int64_t n) {
  double lanes[kGatherLanes] = {}, sum = 0;
  int64_t j = 0;
  for (; j + kGatherLanes <= n; j += kGatherLanes)
    for (int s = 0; s < kGatherLanes; ++s)
      lanes[s] += static_cast<double>(k[j + s]) * static_cast<double>(l[p[j + s]]);
  for (; j < n; ++j) sum += static_cast<double>(k[j]) * static_cast<double>(l[p[j]]);
  for (double lane : lanes) sum += lane;
  return sum;
}

// Rows [first, first + rows) of K against L, for `count` permutations.
template <typename T, typename Index>
void multiply_chunk(const T* k, int64_t first, int64_t rows, const T* l, const int32_t* permutations,
                    int64_t count, int64_t n, double* out) {
  const auto images = make_scratch<Index>(count * n);     // [count][n], p(j)
  const auto origins = make_scratch<int32_t>(count * n);  // [n][count], the i with p(i) = q
  for (int64_t b = 0; b < count; ++b) {
    for (int64_t j = 0; j < n; ++j) {
      const int32_t q = permutations[b * n + j];
      images[b * n + j] = static_cast<Index>(q);
      origins[q * count + b] = static_cast<int32_t>(j);
    }
  }
  std::fill_n(out, count, 0.0);
  for (int64_t q = 0; q < n; ++q) {
    const T* row = l + q * n;
    for (int64_t b = 0; b < count; ++b) {
      const int64_t i = origins[q * count + b];
      if (i < first || i >= first + rows) continue;
      const T* own = k + (i - first) * n;
      if (const int64_t next = b + 1 < count ? origins[q * count + b + 1] : -1;
          next >= first && next < first + rows) {
        const auto* ahead = reinterpret_cast<const char*>(k + (next - first) * n);
        for (int64_t byte = 0; byte < kAhead; byte += 64) __builtin_prefetch(ahead + byte, 0, 2);
      }
      out[b] += 2 * gathered_product<T, Index>(own, row, images.get() + b * n, i) +
                static_cast<double>(own[i]) * static_cast<double>(row[q]);
    }
  }
}

template <typename T>
void multiply(const Tensor& k, int64_t first, const Tensor& l, const Tensor& permutations, double* out) {
  const int64_t n = l.size(0), rows = k.size(0), total = permutations.size(0);
  const T* k_data = static_cast<const T*>(k.const_data_ptr());
  const T* l_data = static_cast<const T*>(l.const_data_ptr());
  const int32_t* p = static_cast<const int32_t*>(permutations.const_data_ptr());
  // Enough chunks for the threads; how permutations share them changes nothing in their sums.
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t chunk = std::clamp((total + threads - 1) / threads, int64_t{1}, kChunk);
  run_tasks((total + chunk - 1) / chunk, [&](Tasks& tasks) {
    for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
      const int64_t begin = t * chunk, count = std::min(chunk, total - begin);
      const auto run = n <= 65536 ? &multiply_chunk<T, uint16_t> : &multiply_chunk<T, int32_t>;
      run(k_data, first, rows, l_data, p + begin * n, count, n, out + begin);
    }
  });
}

void multiply_factors(const Tensor& a, const Tensor& b, const Tensor& permutations, double* out) {
  const auto& kernels = product_kernels<double>();
  const int64_t n = a.size(0), r = a.size(1), s = b.size(1), total = permutations.size(0);
  const int64_t width = kernels.strip, strips = (s + width - 1) / width,
                height = round_up(r, kernels.panel_rows);
  const double* a_data = static_cast<const double*>(a.const_data_ptr());
  const double* b_data = static_cast<const double*>(b.const_data_ptr());
  const int32_t* p = static_cast<const int32_t*>(permutations.const_data_ptr());
  const auto left = make_scratch<double>(n * height);           // A, columns padded with zeros
  const auto right = make_scratch<double>(n * strips * width);  // B, [n][strips * width]
  std::fill_n(left.get(), n * height, 0.0);
  std::fill_n(right.get(), n * strips * width, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(a_data + i * r, r, left.get() + i * height);
    std::copy_n(b_data + i * s, s, right.get() + i * strips * width);
  }
  run_tasks(total, [&](Tasks& tasks) {
    const auto permuted = make_scratch<double>(kDepth * strips * width);
    const auto product = make_scratch<double>(height * strips * width);
    for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
      for (int64_t begin = 0; begin < n; begin += kDepth) {
        const int64_t depth = std::min(kDepth, n - begin);
        for (int64_t i = 0; i < depth; ++i) {
          const double* row = right.get() + p[t * n + begin + i] * strips * width;
          for (int64_t strip = 0; strip < strips; ++strip)
            std::memcpy(permuted.get() + (strip * depth + i) * width, row + strip * width,
                        static_cast<size_t>(width) * sizeof(double));
        }
        kernels.panel_block(left.get() + begin * height, height, true, permuted.get(), height, depth, strips,
                            product.get(), strips * width, begin > 0, {});
      }
      double sum = 0;
      for (int64_t e = 0; e < height * strips * width; ++e) sum += product[e] * product[e];
      out[t] = sum;
    }
  });
}

typedef double Doubles __attribute__((vector_size(8 * sizeof(double))));
template <typename T>
struct Eight {
  typedef T type __attribute__((vector_size(8 * sizeof(T)), aligned(alignof(T)), may_alias));
};

// The sum of the entries whose label is `own`.
template <typename T, typename Mask>
BIDO_VECTORIZE double class_sum(const T* k, const int32_t* labels, int32_t own, int64_t n) {
  using V = typename Eight<T>::type;
  using M = typename Eight<Mask>::type;
  using I = typename Eight<int32_t>::type;
  Doubles sums = {}, others = {};
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) {  // written out: a lambda would not be compiled for the wider vectors
    const M mask = __builtin_convertvector(*reinterpret_cast<const I*>(labels + j) == own, M);
    const M other_mask = __builtin_convertvector(*reinterpret_cast<const I*>(labels + j + 8) == own, M);
    const M bits = reinterpret_cast<const M&>(*reinterpret_cast<const V*>(k + j)) & mask;
    const M other_bits = reinterpret_cast<const M&>(*reinterpret_cast<const V*>(k + j + 8)) & other_mask;
    sums += __builtin_convertvector(reinterpret_cast<const V&>(bits), Doubles);
    others += __builtin_convertvector(reinterpret_cast<const V&>(other_bits), Doubles);
  }
  sums += others;
  double sum = 0;
  for (; j < n; ++j) sum += labels[j] == own ? static_cast<double>(k[j]) : 0.0;
  for (int lane = 0; lane < 8; ++lane) sum += sums[lane];
  return sum;
}

template <typename T, typename Mask>
void sum_classes(const Tensor& k, int64_t first, const Tensor& labels, double* out) {
  const int64_t n = k.size(1), rows = k.size(0), total = labels.size(0);
  const T* k_data = static_cast<const T*>(k.const_data_ptr());
  const int32_t* y = static_cast<const int32_t*>(labels.const_data_ptr());
  const int64_t chunks = (total + kLabelChunk - 1) / kLabelChunk;
  run_tasks(chunks, [&](Tasks& tasks) {
    for (int64_t t = tasks.take(); t >= 0; t = tasks.take()) {
      const int64_t begin = t * kLabelChunk, end = std::min(total, begin + kLabelChunk);
      std::fill(out + begin, out + end, 0.0);
      for (int64_t i = first; i < first + rows; ++i) {
        const T* row = k_data + (i - first) * n;
        for (int64_t b = begin; b < end; ++b)
          out[b] += 2 * class_sum<T, Mask>(row, y + b * n, y[b * n + i], i) + static_cast<double>(row[i]);
      }
    }
  });
}

void check_permutations(const Tensor& permutations, int64_t n) {
  STD_TORCH_CHECK(permutations.dim() == 2 && permutations.size(1) == n,
                  "permuted_products: needs rows of n indices");
  STD_TORCH_CHECK(permutations.scalar_type() == ScalarType::Int,
                  "permuted_products: needs int32 permutations");
  const int32_t* p = static_cast<const int32_t*>(permutations.const_data_ptr());
  for (int64_t e = 0; e < permutations.numel(); ++e)
    STD_TORCH_CHECK(p[e] >= 0 && p[e] < n, "permuted_products: an index is out of range");
}

}  // namespace

Tensor permuted_products_cpu(Tensor k, int64_t first, Tensor l, Tensor permutations) {
  STD_TORCH_CHECK(l.dim() == 2 && l.size(0) == l.size(1), "permuted_products: L must be square");
  STD_TORCH_CHECK(k.dim() == 2 && k.size(1) == l.size(0) && first >= 0 && first + k.size(0) <= l.size(0),
                  "permuted_products: K must be rows of a matrix of L's size");
  STD_TORCH_CHECK(k.scalar_type() == l.scalar_type(), "permuted_products: K and L must be of one dtype");
  k = torch::stable::contiguous(k);
  l = torch::stable::contiguous(l);
  permutations = torch::stable::contiguous(permutations);
  check_permutations(permutations, l.size(0));
  Tensor out = empty_like_with(l, {permutations.size(0)}, ScalarType::Double);
  double* data = static_cast<double*>(out.mutable_data_ptr());
  switch (k.scalar_type()) {
    case ScalarType::Double:
      multiply<double>(k, first, l, permutations, data);
      break;
    case ScalarType::Float:
      multiply<float>(k, first, l, permutations, data);
      break;
    default:
      STD_TORCH_CHECK(false, "permuted_products: K must be float32 or float64");
  }
  return out;
}

Tensor permuted_factor_products_cpu(Tensor a, Tensor b, Tensor permutations) {
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) == b.size(0),
                  "permuted_factor_products: A and B must have the same rows");
  STD_TORCH_CHECK(a.scalar_type() == ScalarType::Double && b.scalar_type() == ScalarType::Double,
                  "permuted_factor_products: A and B must be float64");
  a = torch::stable::contiguous(a);
  b = torch::stable::contiguous(b);
  permutations = torch::stable::contiguous(permutations);
  check_permutations(permutations, a.size(0));
  Tensor out = empty_like_with(a, {permutations.size(0)}, ScalarType::Double);
  multiply_factors(a, b, permutations, static_cast<double*>(out.mutable_data_ptr()));
  return out;
}

Tensor permuted_class_sums_cpu(Tensor k, int64_t first, Tensor labels) {
  STD_TORCH_CHECK(k.dim() == 2 && first >= 0 && first + k.size(0) <= k.size(1),
                  "permuted_class_sums: K must be rows of a square matrix");
  STD_TORCH_CHECK(labels.dim() == 2 && labels.size(1) == k.size(1) && labels.scalar_type() == ScalarType::Int,
                  "permuted_class_sums: needs rows of n int32 labels");
  k = torch::stable::contiguous(k);
  labels = torch::stable::contiguous(labels);
  Tensor out = empty_like_with(k, {labels.size(0)}, ScalarType::Double);
  double* data = static_cast<double*>(out.mutable_data_ptr());
  switch (k.scalar_type()) {
    case ScalarType::Double:
      sum_classes<double, int64_t>(k, first, labels, data);
      break;
    case ScalarType::Float:
      sum_classes<float, int32_t>(k, first, labels, data);
      break;
    default:
      STD_TORCH_CHECK(false, "permuted_class_sums: K must be float32 or float64");
  }
  return out;
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("permuted_products", TORCH_BOX(&bido::permuted_products_cpu));
  m.impl("permuted_factor_products", TORCH_BOX(&bido::permuted_factor_products_cpu));
  m.impl("permuted_class_sums", TORCH_BOX(&bido::permuted_class_sums_cpu));
}
