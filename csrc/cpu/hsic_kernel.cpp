// SPDX-License-Identifier: Apache-2.0
//
// hsic:  HSIC of pairs of a group of variables, straight from their features (hsic_sums.h has the formulas).
//
// One pass over the tiles on or above the diagonal: every variable's Gram matrix is made once, whatever the
// number of pairs. With keep_tiles the tiles stay for the backward (dense); without, they are made, summed
// and dropped (streaming): no n x n matrix. hsic_backward_kernel.cpp has the gradient.
#include <algorithm>
#include <tuple>
#include <vector>

#include "hsic_group.h"
#include "hsic_sums.h"
#include "huge_pages.h"

namespace bido {
namespace {

constexpr int64_t kStripes = 8;  // of a tile; fixed, so that sums do not depend on the number of threads

// Sums of one stripe of one tile.
struct Stripe {
  std::vector<double> products, rows, columns;  // [pairs], [m * height], [m * width]
};

template <typename T>
class Accumulator {
 public:
  Accumulator(const std::vector<Variable<T>>& group, const Pairs& pairs, int64_t n, bool unbiased,
              double* sums)
      : group_(group), pairs_(pairs), n_(n), unbiased_(unbiased), sums_(sums), products_(pairs.count(), 0.0) {
    std::fill(sums, sums + static_cast<int64_t>(group.size()) * n, 0.0);
  }

  // One tile of every variable; off the diagonal it stands for its mirror image too.
  void add(const std::vector<Entries<T>>& tiles, Block I, Block J) {
    std::vector<Stripe> stripes(kStripes);
    torch::stable::parallel_for(0, kStripes, 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s)
        sum_stripe(tiles, I, J, s * I.size() / kStripes, (s + 1) * I.size() / kStripes, stripes[s]);
    });
    const bool diagonal = I.begin == J.begin;
    for (int64_t s = 0; s < kStripes; ++s) {
      for (size_t p = 0; p < pairs_.count(); ++p) products_[p] += (diagonal ? 1 : 2) * stripes[s].products[p];
      const int64_t begin = s * I.size() / kStripes, height = (s + 1) * I.size() / kStripes - begin;
      for (size_t v = 0; v < group_.size(); ++v) {
        double* sums = sums_ + static_cast<int64_t>(v) * n_;
        for (int64_t i = 0; i < height; ++i) sums[I.begin + begin + i] += stripes[s].rows[v * height + i];
        if (diagonal) continue;
        for (int64_t j = 0; j < J.size(); ++j) sums[J.begin + j] += stripes[s].columns[v * J.size() + j];
      }
    }
  }

  void finish(double* values) const {
    const Estimator estimator(n_, unbiased_);
    for (size_t p = 0; p < pairs_.count(); ++p)
      values[p] =
          estimator.value(products_[p], sums_ + pairs_.first[p] * n_, sums_ + pairs_.second[p] * n_, n_);
  }

 private:
  void sum_stripe(const std::vector<Entries<T>>& tiles, Block I, Block J, int64_t begin, int64_t end,
                  Stripe& out) const {
    const int64_t height = end - begin, width = J.size();
    const bool diagonal = I.begin == J.begin;
    out.products.assign(pairs_.count(), 0.0);
    out.rows.assign(tiles.size() * height, 0.0);
    out.columns.assign(diagonal ? 0 : tiles.size() * width, 0.0);
    for (int64_t i = begin; i < end; ++i) {
      for (size_t v = 0; v < tiles.size(); ++v) {
        const T* row = tiles[v].data + i * tiles[v].stride;
        out.rows[v * height + i - begin] = row_sum<T>(row, width);
        if (!diagonal) add_row_to_sums<T>(row, out.columns.data() + v * width, width);
        if (diagonal && unbiased_) out.rows[v * height + i - begin] -= static_cast<double>(row[i]);
      }
      for (size_t p = 0; p < pairs_.count(); ++p) {
        const auto &a = tiles[pairs_.first[p]], &b = tiles[pairs_.second[p]];
        const T *row_a = a.data + i * a.stride, *row_b = b.data + i * b.stride;
        out.products[p] += row_product<T>(row_a, row_b, width);
        if (diagonal && unbiased_)
          out.products[p] -= static_cast<double>(row_a[i]) * static_cast<double>(row_b[i]);
      }
    }
  }

  const std::vector<Variable<T>>& group_;
  const Pairs& pairs_;
  int64_t n_;
  bool unbiased_;
  double* sums_;
  std::vector<double> products_;
};

template <typename T>
void forward(const std::vector<Variable<T>>& group, const Pairs& pairs, bool unbiased, int64_t tile,
             const Tensor& kept, double* values, double* sums) {
  const int64_t n = group[0].data.size(0);
  GramTiles<T> tiles(group, tile, kept);
  if (tiles.keeps()) tiles.fill();
  Accumulator<T> total(group, pairs, n, unbiased, sums);
  std::vector<Entries<T>> current(group.size());
  for (int64_t row = 0; row < tiles.blocks(); ++row) {
    for (int64_t column = row; column < tiles.blocks(); ++column) {
      for (size_t v = 0; v < group.size(); ++v) current[v] = tiles.get(v, row, column);
      total.add(current, tiles.rows(row), tiles.rows(column));
    }
  }
  total.finish(values);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> hsic_cpu(std::vector<Tensor> variables, Tensor parameters,
                                            std::vector<int64_t> kinds, std::vector<int64_t> first,
                                            std::vector<int64_t> second, bool unbiased, int64_t tile,
                                            bool keep_tiles) {
  STD_TORCH_CHECK(!variables.empty() && first.size() == second.size() && tile >= 1,
                  "hsic: needs variables, pairs and a positive tile");
  const auto m = static_cast<int64_t>(variables.size());
  for (size_t p = 0; p < first.size(); ++p)
    STD_TORCH_CHECK(first[p] >= 0 && first[p] < m && second[p] >= 0 && second[p] < m,
                    "hsic: a pair names a variable that is not there");
  const Pairs pairs{first, second};
  const int64_t n = variables[0].size(0), size = std::min(tile, n), blocks = (n + size - 1) / size;
  const ScalarType dtype = group_dtype(variables, kinds);
  const Tensor& like = variables[0];
  Tensor values = empty_like_with(like, {static_cast<int64_t>(first.size())}, ScalarType::Double);
  Tensor sums = empty_like_with(like, {m, n}, ScalarType::Double);
  int64_t features = 0;
  for (int64_t kind : kinds) features += kind < static_cast<int64_t>(KernelKind::labels);
  Tensor kept = empty_large(like, {keep_tiles ? features : 0, blocks * (blocks + 1) / 2, size, size}, dtype);
  double* v = static_cast<double*>(values.mutable_data_ptr());
  double* s = static_cast<double*>(sums.mutable_data_ptr());
  if (dtype == ScalarType::Double) {
    forward<double>(make_group<double>("hsic", variables, parameters, kinds), pairs, unbiased, size, kept, v, s);
  } else {
    forward<float>(make_group<float>("hsic", variables, parameters, kinds), pairs, unbiased, size, kept, v, s);
  }
  return {values, sums, kept};
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) { m.impl("hsic", TORCH_BOX(&bido::hsic_cpu)); }
