// SPDX-License-Identifier: Apache-2.0
//
// hsic:  HSIC of pairs of a group of variables, straight from their features (hsic_sums.h has the formulas).
//
// One pass over the tiles on or above the diagonal: every variable's Gram matrix is made once, whatever the
// number of pairs. Kept tiles stay for the backward: all of them (kept_tiles = -1, dense), or as many as the
// workspace holds; the others are made, summed and dropped (streaming): no n x n matrix.
// hsic_backward_kernel.cpp has the gradient.
#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "hsic_group.h"
#include "hsic_sums.h"
#include "huge_pages.h"
#include "pair_arguments.h"
#include "resolution.h"

namespace bido {
namespace {

constexpr int64_t kStripes = 8;  // of a single tile; fixed, so that sums do not depend on the threads

// Of float32 and the unbiased estimator: the norm that is left of the entries by off-diagonal centering.
constexpr double kLeastLeft = 0.005;

// A stretch of rows of one tile of every variable, and its sums.
template <typename T>
struct Stripe {
  std::vector<Entries<T>> tiles;
  Block I, J;
  int64_t begin, end;                           // rows of the tile
  std::vector<double> products, rows, columns;  // [pairs], [m * (end - begin)], [m * J.size()]
  std::vector<double> squares;                  // [m]; unbiased

  bool diagonal() const { return I.begin == J.begin; }
};

template <typename T>
class Accumulator {
 public:
  Accumulator(const std::vector<Variable<T>>& group, const Pairs& pairs, int64_t n, bool unbiased,
              double* sums)
      : group_(group),
        pairs_(pairs),
        n_(n),
        unbiased_(unbiased),
        sums_(sums),
        products_(pairs.count(), 0.0),
        squares_(group.size(), 0.0),
        shifts_(group.size()) {
    std::fill(sums, sums + static_cast<int64_t>(group.size()) * n, 0.0);
  }

  // Takes shift[i] + shift[j] off the entries of a variable: off-diagonal centering cancels it, and its
  // square in products of two such variables is beyond their digits where a sample is far from the others.
  void shift(size_t variable, std::vector<double> shift) { shifts_[variable] = std::move(shift); }

  // Sums the stripes side by side, then adds them up in order. Off the diagonal a tile stands for its mirror
  // image too.
  void add(std::vector<Stripe<T>>& stripes) {
    torch::stable::parallel_for(0, static_cast<int64_t>(stripes.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) sum(stripes[s]);
    });
    for (const Stripe<T>& stripe : stripes) {
      const int64_t height = stripe.end - stripe.begin, width = stripe.J.size();
      for (size_t p = 0; p < pairs_.count(); ++p)
        products_[p] += (stripe.diagonal() ? 1 : 2) * stripe.products[p];
      for (size_t v = 0; v < group_.size(); ++v) {
        squares_[v] += (stripe.diagonal() ? 1 : 2) * (stripe.squares.empty() ? 0 : stripe.squares[v]);
        double* sums = sums_ + static_cast<int64_t>(v) * n_;
        for (int64_t i = 0; i < height; ++i)
          sums[stripe.I.begin + stripe.begin + i] += stripe.rows[v * height + i];
        if (stripe.diagonal()) continue;
        for (int64_t j = 0; j < width; ++j) sums[stripe.J.begin + j] += stripe.columns[v * width + j];
      }
    }
  }

  void finish(double* values) const {
    const Estimator estimator(n_, unbiased_);
    for (size_t p = 0; p < pairs_.count(); ++p)
      values[p] =
          estimator.value(products_[p], sums_ + pairs_.first[p] * n_, sums_ + pairs_.second[p] * n_, n_);
    for (size_t v = 0; v < group_.size(); ++v) {  // back to the sums of the entries as they are kept
      if (shifts_[v].empty()) continue;
      double total = 0;
      for (double shift : shifts_[v]) total += shift;
      for (int64_t i = 0; i < n_; ++i)
        sums_[static_cast<int64_t>(v) * n_ + i] += static_cast<double>(n_ - 2) * shifts_[v][i] + total;
    }
  }

  // Whether off-diagonal centering leaves too little of float32 entries (reference/resolution.py).
  bool cancels(size_t v) const {
    if (!unbiased_ || std::is_same_v<T, double> || !group_[v].is_features()) return false;
    const Estimator estimator(n_, true);
    const double* sums = sums_ + static_cast<int64_t>(v) * n_;
    double cross = 0, total = 0;
    for (int64_t i = 0; i < n_; ++i) {
      cross += sums[i] * sums[i];
      total += sums[i];
    }
    const double left = squares_[v] - estimator.pair * cross + estimator.total * total * total;
    return left < kLeastLeft * kLeastLeft * squares_[v];
  }

 private:
  // Row i of the tile of a variable less its shifts, in `out`; the row itself where there are none.
  const T* shifted(const Stripe<T>& s, size_t v, int64_t i, std::vector<T>& out) const {
    const T* row = s.tiles[v].data + i * s.tiles[v].stride;
    if (shifts_[v].empty()) return row;
    const double *columns = shifts_[v].data() + s.J.begin, own = shifts_[v][s.I.begin + i];
    out.resize(s.J.size());
    for (int64_t j = 0; j < s.J.size(); ++j)
      out[j] = static_cast<T>(static_cast<double>(row[j]) - own - columns[j]);
    if (s.diagonal()) out[i] = T(0);  // beside it the others would lose their digits
    return out.data();
  }

  void sum(Stripe<T>& s) const {
    const int64_t height = s.end - s.begin, width = s.J.size();
    const bool diagonal = s.diagonal(), hollow = diagonal && unbiased_;  // hollow: without the diagonal
    const size_t m = s.tiles.size();
    s.products.assign(pairs_.count(), 0.0);
    s.rows.assign(m * height, 0.0);
    s.columns.assign(diagonal ? 0 : m * width, 0.0);
    const bool squares = unbiased_ && std::is_same_v<T, float>;
    s.squares.assign(squares ? m : 0, 0.0);
    std::vector<std::vector<T>> buffers(m);
    std::vector<const T*> rows(m);
    for (int64_t i = s.begin; i < s.end; ++i) {
      for (size_t v = 0; v < m; ++v) {
        const T* row = rows[v] = shifted(s, v, i, buffers[v]);
        if (squares) {
          s.squares[v] += row_product<T>(row, row, width);
          if (hollow) s.squares[v] -= static_cast<double>(row[i]) * static_cast<double>(row[i]);
        }
        double& total = s.rows[v * height + i - s.begin];
        total = diagonal ? row_sum<T>(row, width)
                         : row_and_column_sums<T>(row, s.columns.data() + v * width, width);
        if (hollow) total -= static_cast<double>(row[i]);
      }
      for (size_t p = 0; p < pairs_.count(); ++p) {
        const T *row_a = rows[pairs_.first[p]], *row_b = rows[pairs_.second[p]];
        s.products[p] += row_product<T>(row_a, row_b, width);
        if (hollow) s.products[p] -= static_cast<double>(row_a[i]) * static_cast<double>(row_b[i]);
      }
    }
  }

  const std::vector<Variable<T>>& group_;
  const Pairs& pairs_;
  int64_t n_;
  bool unbiased_;
  double* sums_;
  std::vector<double> products_, squares_;
  std::vector<std::vector<double>> shifts_;
};

// Row c of the Gram matrix of a float64 variable, c the sample nearest to the mean, less half of its median
// m: the entries less these are E_ij - E_ic - E_cj + m, as small as entries differ, be they near 0 or near 1.
template <typename T>
std::vector<double> central_row(const GramTiles<T>& tiles, size_t v, int64_t n) {
  const T* norms = tiles.norms(v);
  const int64_t c = std::min_element(norms, norms + n) - norms, block = c / tiles.tile();
  std::vector<double> row(n);
  for (int64_t b = 0; b < tiles.blocks(); ++b) {
    const Block J = tiles.rows(b);
    const Entries<T> tile = tiles.get(v, std::min(block, b), std::max(block, b));
    const int64_t i = c - tiles.rows(block).begin;
    for (int64_t j = 0; j < J.size(); ++j)
      row[J.begin + j] =
          static_cast<double>(b < block ? tile.data[j * tile.stride + i] : tile.data[i * tile.stride + j]);
  }
  std::vector<double> others = row;
  others.erase(others.begin() + c);
  const double half = median_of(others.data(), n - 1) / 2;
  for (double& entry : row) entry -= half;
  row[c] = half;
  return row;
}

// NaN for the pairs of a variable, and at the first entry kept, where the backward sees it.
template <typename T>
void unresolved(int64_t variable, const Pairs& pairs, double* values, const Tensor& kept) {
  for (size_t p = 0; p < pairs.count(); ++p)
    if (pairs.first[p] == variable || pairs.second[p] == variable)
      values[p] = std::numeric_limits<double>::quiet_NaN();
  if (kept.numel() > 0) *static_cast<T*>(kept.mutable_data_ptr()) = std::numeric_limits<T>::quiet_NaN();
}

template <typename T>
void forward(const std::vector<Variable<T>>& group, const Pairs& pairs, bool unbiased, int64_t tile,
             const Tensor& kept, double* values, double* sums) {
  const int64_t n = group[0].data.size(0);
  GramTiles<T> tiles(group, tile, kept);
  if (tiles.keeps_all()) tiles.fill();
  Accumulator<T> total(group, pairs, n, unbiased, sums);
  for (size_t v = 0; v < group.size() && unbiased && std::is_same_v<T, double>; ++v)
    if (group[v].is_features()) total.shift(v, central_row(tiles, v, n));
  const auto take = [&](int64_t row, int64_t column, std::vector<T*> labels) {
    std::vector<Entries<T>> entries;
    for (size_t v = 0; v < group.size(); ++v)
      entries.push_back(labels.empty() ? tiles.get(v, row, column)
                                       : tiles.get(v, row, column, labels[v], {0, tiles.rows(row).size()}));
    return entries;
  };
  for (int64_t row = 0; row < tiles.blocks(); ++row) {
    const Block I = tiles.rows(row);
    std::vector<Stripe<T>> stripes;
    if (tiles.keeps_all() && tiles.blocks() > 1) {  // all tiles of the row side by side
      std::vector<Scratch<T>> buffers;
      for (int64_t column = row; column < tiles.blocks(); ++column) {
        std::vector<T*> labels(group.size(), nullptr);
        for (size_t v = 0; v < group.size(); ++v) {
          if (!group[v].is_labels()) continue;
          buffers.push_back(make_scratch<T>(tile * tile));
          labels[v] = buffers.back().get();
        }
        stripes.push_back({take(row, column, labels), I, tiles.rows(column), 0, I.size(), {}, {}, {}, {}});
      }
      total.add(stripes);
      continue;
    }
    for (int64_t column = row; column < tiles.blocks(); ++column) {
      const auto entries = take(row, column, {});
      stripes.clear();
      for (int64_t s = 0; s < kStripes; ++s)
        stripes.push_back({entries,
                           I,
                           tiles.rows(column),
                           s * I.size() / kStripes,
                           (s + 1) * I.size() / kStripes,
                           {},
                           {},
                           {},
                           {}});
      total.add(stripes);
    }
  }
  total.finish(values);
  for (int64_t v = 0; v < static_cast<int64_t>(group.size()); ++v)
    if (!resolves<T>(group[v], tiles.norms(v), sums + v * n, n) || total.cancels(v))
      unresolved<T>(v, pairs, values, kept);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> hsic_cpu(std::vector<Tensor> variables, Tensor parameters,
                                            std::vector<int64_t> kinds, std::vector<int64_t> first,
                                            std::vector<int64_t> second, bool unbiased, int64_t tile,
                                            int64_t kept_tiles) {
  check_pairs("hsic", variables, kinds, first, second);
  STD_TORCH_CHECK(tile >= 1, "hsic: needs a positive tile");
  const auto m = static_cast<int64_t>(variables.size());
  const Pairs pairs{first, second};
  const int64_t n = variables[0].size(0), size = std::min(tile, n), blocks = (n + size - 1) / size;
  const ScalarType dtype = group_dtype(variables, kinds);
  const Tensor& like = variables[0];
  Tensor values = empty_like_with(like, {static_cast<int64_t>(first.size())}, ScalarType::Double);
  Tensor sums = empty_like_with(like, {m, n}, ScalarType::Double);
  int64_t features = 0;
  for (int64_t kind : kinds) features += kind < static_cast<int64_t>(KernelKind::labels);
  const int64_t all = blocks * (blocks + 1) / 2, count = kept_tiles < 0 ? all : std::min(kept_tiles, all);
  Tensor kept = empty_large(like, {features, count, size, size}, dtype);
  double* v = static_cast<double*>(values.mutable_data_ptr());
  double* s = static_cast<double*>(sums.mutable_data_ptr());
  if (dtype == ScalarType::Double) {
    forward<double>(make_group<double>("hsic", variables, parameters, kinds), pairs, unbiased, size, kept, v,
                    s);
  } else {
    forward<float>(make_group<float>("hsic", variables, parameters, kinds), pairs, unbiased, size, kept, v,
                   s);
  }
  return {values, sums, kept};
}

}  // namespace bido

// bido_ext/serving/on_cpu.py calls these: what float32 does not resolve is asked for again in float64.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def(
      "hsic(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, bool unbiased,"
      " int tile, int kept_tiles) -> (Tensor, Tensor, Tensor)");
  m.def(
      "hsic_backward(Tensor grad, Tensor[] variables, Tensor parameters, Tensor sums, Tensor tiles,"
      " int[] kinds, int[] first, int[] second, bool unbiased, int tile, int[] wanted) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("hsic", TORCH_BOX(&bido::hsic_cpu)); }
