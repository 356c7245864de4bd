// SPDX-License-Identifier: Apache-2.0
//
// coco with the Frobenius norm on the CPU: sqrt(|Kc Lc|_F) / n, Kc = H K H, for all variables and pairs of a
// step in one call, the algebra in float64. coco_backward_kernel.cpp has the gradient.
//
//   K wanted, L not labels:  |Kc Lc|_F^2 = <Kc, Kc Lc^2>, and Kc Lc^2 makes the gradient, which is kept
//   L labels:                Kc Lc from sums over classes, O(n^2)
//   neither wanted:          <Kc^2, Lc^2>, one square per variable
// One half of a square is computed, and each once. The composition (ops/coco.py) serves the spectral norm,
// which needs an eigenvector, and float32 algebra, in which <Kc, Kc Lc^2> may cancel.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "centered_gram.h"
#include "gram_roundoff.h"
#include "group_grams.h"
#include "label_product.h"
#include "mirror.h"
#include "pair_arguments.h"
#include "row_products.h"
#include "sides.h"
#include "variable.h"

namespace bido {
namespace {

constexpr double kLargestProductNoise = 5e-6;

// work(k) for k < count: few samples side by side, more one after the other with all threads.
template <typename F>
void for_each(int64_t count, int64_t n, const F& work) {
  if (n <= kFewSamples) {
    run_tasks(count, [&](Tasks& tasks) {
      for (int64_t k = tasks.take(); k >= 0; k = tasks.take()) work(k);
    });
  } else {
    for (int64_t k = 0; k < count; ++k) work(k);
  }
}

template <typename T>
BIDO_VECTORIZE void scaled_row(double factor, const double* row, T* out, int64_t n) {
  for (int64_t j = 0; j < n; ++j) out[j] = static_cast<T>(factor * row[j]);
}

template <typename T>
void fill_rows(const CenteredGram<T>& Kc, RowBuffer<double>& out) {
  torch::stable::parallel_for(0, out.rows(), 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) Kc.fill(i, 0, out.rows(), out.row(i));
  });
}

template <typename T>
class Coco {
 public:
  Coco(const std::vector<Tensor>& variables, const Tensor& parameters, const std::vector<int64_t>& kinds,
       const std::vector<int64_t>& first, const std::vector<int64_t>& second,
       const std::vector<int64_t>& wanted)
      : n_(variables[0].size(0)),
        first_(first),
        second_(second),
        group_(make_group<T>("coco", variables, parameters, kinds)),
        grams_(variables, parameters, kinds, wanted),
        sides_(sides_of(kinds, first, second, wanted)),
        of_sides_(sides_.size()),
        square_of_(kinds.size(), -1),
        roundoffs_(kinds.size()),
        sizes_(kinds.size()) {}

  std::tuple<Tensor, Tensor, Tensor> run(const Tensor& like) {
    Tensor kept = empty_large(like, {static_cast<int64_t>(sides_.size()), n_, n_}, scalar_type_of<T>());
    Tensor values = empty_like_with(like, {static_cast<int64_t>(first_.size())}, ScalarType::Double);
    make_sides(static_cast<T*>(kept.mutable_data_ptr()));
    make_squares(variables_without_gradient());
    take_sizes();
    auto* value = static_cast<double*>(values.mutable_data_ptr());
    for_each(static_cast<int64_t>(first_.size()), n_, [&](int64_t p) {
      const double squared = squared_norm_of_pair(p);
      // Round-off may be negative; NaN stays.
      value[p] = squared < 0 ? 0.0 : std::sqrt(std::sqrt(squared)) / static_cast<double>(n_);
      if (is_noise(p, squared)) value[p] = std::numeric_limits<double>::quiet_NaN();
    });
    return {values, grams_.kept(), kept};
  }

 private:
  CenteredGram<T> centered(int64_t v) const {
    return CenteredGram<T>(grams_.gram(v), group_[v].is_gram(), n_);
  }
  LabelProduct label_product(int64_t v) const {
    return LabelProduct(static_cast<const int64_t*>(group_[v].data.const_data_ptr()),
                        group_[v].exact_parameter, n_);
  }
  bool is_wanted(int64_t v) const { return grams_.place_of_wanted(v) >= 0; }

  // Lc^2 of some variables, in place of those that were here.
  void make_squares(const std::vector<int64_t>& variables) {
    squares_.clear();
    std::fill(square_of_.begin(), square_of_.end(), -1);
    for (int64_t v : variables) {
      square_of_[v] = static_cast<int64_t>(squares_.size());
      squares_.emplace_back(n_, n_);
    }
    for_each(static_cast<int64_t>(variables.size()), n_, [&](int64_t k) {
      RowBuffer<double> rows(n_, n_);
      fill_rows(centered(variables[k]), rows);
      multiply_rows(rows, rows, squares_[k].row(0), squares_[k].stride(), true);
      mirror_upper(squares_[k].row(0), n_, squares_[k].stride());
    });
  }

  // Few samples: all squares, then all sides. Many: those of one partner after the other.
  void make_sides(T* out) {
    std::vector<int64_t> partners;
    for (const Side& side : sides_)
      if (std::find(partners.begin(), partners.end(), side.partner) == partners.end())
        partners.push_back(side.partner);
    const size_t together = n_ <= kFewSamples ? partners.size() : 1;
    for (size_t first = 0; first < partners.size(); first += together) {
      make_squares({partners.begin() + first, partners.begin() + first + together});
      std::vector<int64_t> chosen;
      for (size_t s = 0; s < sides_.size(); ++s)
        if (square_of_[sides_[s].partner] >= 0) chosen.push_back(static_cast<int64_t>(s));
      for_each(static_cast<int64_t>(chosen.size()), n_, [&](int64_t k) {
        const int64_t s = chosen[k];
        of_sides_[s] = product_of_side(sides_[s], out + s * n_ * n_);
      });
    }
  }

  void take_sizes() {
    if (!std::is_same_v<T, float>) return;
    for_each(static_cast<int64_t>(group_.size()), n_, [&](int64_t v) {
      if (group_[v].is_labels()) {
        const double scale = group_[v].exact_parameter;
        sizes_[v] = scale * std::sqrt(label_product(v).classes().squared_norm());
        return;
      }
      const double squares = squared_norm_of(grams_.gram(v), n_);
      sizes_[v] = std::sqrt(centered(v).squared_norm(squares));
      if (!group_[v].is_gram()) roundoffs_[v] = roundoff_of(grams_.gram(v), n_);
    });
  }

  // Whether the round-off of a Gram matrix, times the other one, is seen beside Kc Lc: labels that tell only
  // what K is nearly blind to. Float64 is asked then (reference/resolution.py: product_is_noise).
  bool is_noise(int64_t p, double squared) const {
    const int64_t a = first_[p], b = second_[p];
    const double noise = roundoffs_[a] * sizes_[b] + roundoffs_[b] * sizes_[a];
    return squared > 0 && noise > kLargestProductNoise * std::sqrt(squared);
  }

  // Those of pairs in which neither is wanted nor labels.
  std::vector<int64_t> variables_without_gradient() const {
    std::set<int64_t> result;
    for (size_t p = 0; p < first_.size(); ++p) {
      const int64_t a = first_[p], b = second_[p];
      if (!is_wanted(a) && !is_wanted(b) && !group_[a].is_labels() && !group_[b].is_labels())
        result.insert({a, b});
    }
    return {result.begin(), result.end()};
  }

  // |Kc Lc|_F^2, and to `out` what the backward takes the symmetric part of:
  //   Kc Lc^2 |Kc Lc|_F^(-3/2) / (2 n), 0 where the norm is. Its dtype costs no digit, although the
  // antisymmetric part goes later: |Kc T + T Kc| >= |Kc T - T Kc| as both are positive semidefinite.
  double product_of_side(const Side& side, T* out) const {
    RowBuffer<double> rows(n_, n_), product(n_, n_);
    fill_rows(centered(side.own), rows);
    // Both are symmetric: rows times rows.
    multiply_rows(rows, squares_[square_of_[side.partner]], product.row(0), product.stride(), false);
    const double squared = inner_product(rows.row(0), rows.stride(), product.row(0), product.stride(), n_);
    const double scale = squared > 0 ? std::pow(squared, -0.75) / (2 * static_cast<double>(n_)) : 0 * squared;
    torch::stable::parallel_for(0, n_, 32, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) scaled_row(scale, product.row(i), out + i * n_, n_);
    });
    return squared;
  }

  double squared_norm_of_pair(int64_t p) const {
    const int64_t a = first_[p], b = second_[p];
    if (group_[b].is_labels()) return squared_norm_with_labels(a, b);
    if (group_[a].is_labels()) return squared_norm_with_labels(b, a);
    for (size_t s = 0; s < sides_.size(); ++s)
      if ((sides_[s].own == a && sides_[s].partner == b) || (sides_[s].own == b && sides_[s].partner == a))
        return of_sides_[s];
    const RowBuffer<double>&A = squares_[square_of_[a]], &B = squares_[square_of_[b]];
    return inner_product(A.row(0), A.stride(), B.row(0), B.stride(), n_);
  }

  double squared_norm_with_labels(int64_t v, int64_t labels) const {
    const LabelProduct Lc = label_product(labels);
    if (!group_[v].is_labels()) return squared_norm(Lc, centered(v));
    return squared_norm(Lc, label_product(v));
  }

  template <typename Centered>
  double squared_norm(const LabelProduct& Lc, const Centered& Kc) const {
    const int64_t blocks = (n_ + kLabelColumns - 1) / kLabelColumns;
    std::vector<double> sums(blocks);
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      std::vector<double> M(Lc.classes().count() * kLabelColumns);
      for (int64_t block = first; block < last; ++block) {
        const int64_t j = block * kLabelColumns, width = std::min(kLabelColumns, n_ - j);
        Lc.multiply([&](int64_t i, double* out) { Kc.fill(i, j, width, out); }, width, M.data());
        sums[block] = Lc.squared_norm(M.data(), width);
      }
    });
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
  }

  int64_t n_;
  const std::vector<int64_t>&first_, &second_;  // of the caller, who outlives this
  std::vector<Variable<T>> group_;
  GroupGrams<T> grams_;
  std::vector<Side> sides_;
  std::vector<double> of_sides_;    // |Kc Lc|_F^2
  std::vector<int64_t> square_of_;  // by variable: which of squares_, or -1
  std::vector<RowBuffer<double>> squares_;
  std::vector<double> roundoffs_, sizes_;  // by variable: of float32 entries, and |Kc|_F; 0 of float64
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> coco_cpu(std::vector<Tensor> variables, Tensor parameters,
                                            std::vector<int64_t> kinds, std::vector<int64_t> first,
                                            std::vector<int64_t> second, std::string norm, bool wide,
                                            std::vector<int64_t> wanted) {
  check_pairs("coco", variables, kinds, first, second);
  check_wanted("coco", kinds, wanted);
  STD_TORCH_CHECK(norm == "fro" && wide, "coco: the kernel has the Frobenius norm, computed in float64");
  if (group_dtype(variables, kinds) == ScalarType::Double)
    return Coco<double>(variables, parameters, kinds, first, second, wanted).run(parameters);
  return Coco<float>(variables, parameters, kinds, first, second, wanted).run(parameters);
}

}  // namespace bido

// The composition serves what this kernel does not take: bido_ext/serving/on_cpu.py chooses.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def(
      "coco(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, str norm,"
      " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "coco_backward(Tensor grad, Tensor values, Tensor[] variables, Tensor parameters, Tensor stack,"
      " Tensor kept, int[] kinds, int[] first, int[] second, str norm, bool wide, int[] wanted) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("coco", TORCH_BOX(&bido::coco_cpu)); }
