// SPDX-License-Identifier: Apache-2.0
//
// distance_products: sum_ij |x_i - x_j| |y_i - y_j| of two columns in O(n log n) (Huo and Szekely 2016; by
// merging, Chaudhuri and Hu 2019).
//
// Without absolute values the sum over i < j, x ascending, is n sum_i x_i y_i - sum_i x_i sum_i y_i. Where
// y_i > y_j, i < j, the sign is the other one. A merge sort by y, descending, meets these pairs: when sample
// j of the right half is taken, the samples of the left half that were taken before are those with y_i > y_j,
// and sums of 1, x, y and x y over them give the sum of (x_j - x_i) (y_i - y_j). Ties add nothing on either
// side. One thread.
#include <algorithm>

#include "scratch.h"
#include "tasks.h"

namespace bido {
namespace {

constexpr int64_t kBlock = 16;  // samples whose pairs are all looked at

struct Sample {
  double x, y;
};

double insert_block(Sample* block, int64_t count) {
  double discordant = 0;
  for (int64_t j = 1; j < count; ++j) {
    const Sample now = block[j];
    for (int64_t i = 0; i < j; ++i) discordant += (now.x - block[i].x) * std::max(block[i].y - now.y, 0.0);
  }
  for (int64_t j = 1; j < count; ++j) {
    const Sample now = block[j];
    int64_t i = j;
    for (; i > 0 && block[i - 1].y < now.y; --i) block[i] = block[i - 1];
    block[i] = now;
  }
  return discordant;
}

double merge(const Sample* left, const Sample* left_end, const Sample* right, const Sample* right_end,
             Sample* out) {
  double discordant = 0, count = 0, x = 0, y = 0, xy = 0;
  while (left != left_end && right != right_end) {
    if (left->y > right->y) {
      count += 1;
      x += left->x;
      y += left->y;
      xy += left->x * left->y;
      *out++ = *left++;
    } else {
      discordant += right->x * (y - count * right->y) - (xy - x * right->y);
      *out++ = *right++;
    }
  }
  out = std::copy(left, left_end, out);
  for (; right != right_end; ++right) {
    discordant += right->x * (y - count * right->y) - (xy - x * right->y);
    *out++ = *right;
  }
  return discordant;
}

double discordant_products(const double* x, const double* y, int64_t n) {
  auto now = make_scratch<Sample>(n), next = make_scratch<Sample>(n);
  for (int64_t i = 0; i < n; ++i) now[i] = {x[i], y[i]};
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock)
    sum += insert_block(&now[begin], std::min(kBlock, n - begin));
  for (int64_t size = kBlock; size < n; size *= 2) {
    double level = 0;
    for (int64_t begin = 0; begin < n; begin += 2 * size) {
      const int64_t middle = std::min(n, begin + size), end = std::min(n, begin + 2 * size);
      level += merge(&now[0] + begin, &now[0] + middle, &now[0] + middle, &now[0] + end, &next[0] + begin);
    }
    sum += level;
    std::swap(now, next);
  }
  return sum;
}

}  // namespace

Tensor distance_products_cpu(Tensor x, Tensor y) {
  STD_TORCH_CHECK(x.dim() == 1 && y.dim() == 1 && x.size(0) == y.size(0),
                  "distance_products: x and y must be vectors of the same length");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double && y.scalar_type() == ScalarType::Double,
                  "distance_products: x and y must be float64");
  x = torch::stable::contiguous(x);
  y = torch::stable::contiguous(y);
  const int64_t n = x.size(0);
  const auto* a = static_cast<const double*>(x.const_data_ptr());
  const auto* b = static_cast<const double*>(y.const_data_ptr());
  double sum_x = 0, sum_y = 0, sum_xy = 0;
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(i == 0 || !(a[i] < a[i - 1]), "distance_products: x must be sorted");
    sum_x += a[i];
    sum_y += b[i];
    sum_xy += a[i] * b[i];
  }
  Tensor out = empty_like_with(x, {1}, ScalarType::Double);
  *static_cast<double*>(out.mutable_data_ptr()) =
      2 * (static_cast<double>(n) * sum_xy - sum_x * sum_y + 2 * discordant_products(a, b, n));
  return out;
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) {
  m.impl("distance_products", TORCH_BOX(&bido::distance_products_cpu));
}
