// SPDX-License-Identifier: Apache-2.0
//
// Pairs of a group as inner products of factors, <F_a, F_b>: each variable has one factor [n, n] in float64,
// S in nhsic. All of a step in one call, and in the backward what the factors of the partners add to the
// gradient of a variable.
//
// Few samples (BiDO's batches): one thread per variable. More: all threads work on one variable after the
// other, and what no gradient needs goes when it is used.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/partners.h"
#include "group_grams.h"
#include "hsic_sums.h"
#include "row_products.h"
#include "sides.h"
#include "variable.h"

namespace bido {

struct PairFactors {
  Tensor values, stack, factors;  // [pairs]; Gram matrices of `wanted`; factors of their partners
};

// What is asked for a factor: gram is null for labels, `kept` the place of the variable among the wanted ones
// or -1. `work`: n rows of n entries, null where every thread has variables of its own.
template <typename T>
struct FactorRequest {
  int64_t index;
  const Variable<T>& variable;
  double parameter;
  const T* gram;
  int64_t kept;
  double* out;
  RowBuffer<double>* work;
};

template <typename T, typename Factorise>
PairFactors factor_pairs(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                         const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                         const std::vector<int64_t>& second, const std::vector<int64_t>& wanted,
                         const Factorise& factorise) {
  const auto group = make_group<T>(op, variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, m = static_cast<int64_t>(group.size());
  const auto pairs = static_cast<int64_t>(first.size());

  GroupGrams<T> grams(variables, parameters, kinds, wanted);
  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  const bool few = n <= kFewSamples;

  // The factors of partners are kept for the backward, in their order. The others need a place while there
  // are pairs to sum; many samples: a wanted variable that is no partner is paired with partners alone, so
  // that one such after the other can use the last place.
  const auto kept_factors = static_cast<int64_t>(partners.size());
  std::vector<int64_t> place(m, -1), last;
  for (int64_t b = 0; b < kept_factors; ++b) place[partners[b]] = b;
  int64_t next = kept_factors;
  for (int64_t v = 0; v < m; ++v) {
    if (place[v] >= 0) continue;
    if (!few && std::find(wanted.begin(), wanted.end(), v) != wanted.end())
      last.push_back(v);
    else
      place[v] = next++;
  }
  for (int64_t v : last) place[v] = next;
  const int64_t others = next + !last.empty() - kept_factors;
  Tensor factors = empty_large(parameters, {kept_factors, n, n}, ScalarType::Double);
  const Scratch<double> other_factors = make_scratch<double>(others * size);
  Tensor values = empty_like_with(parameters, {pairs}, ScalarType::Double);
  auto* kept_factor = static_cast<double*>(factors.mutable_data_ptr());
  auto* value = static_cast<double*>(values.mutable_data_ptr());
  const auto factor = [&](int64_t v) {
    return place[v] < kept_factors ? kept_factor + place[v] * size
                                   : other_factors.get() + (place[v] - kept_factors) * size;
  };
  const auto make_factor = [&](int64_t v, RowBuffer<double>* work) {
    factorise(FactorRequest<T>{v, group[v], group[v].exact_parameter, grams.gram(v), grams.place_of_wanted(v),
                               factor(v), work});
  };
  const auto sum = [&](int64_t p) { value[p] = inner_product(factor(first[p]), n, factor(second[p]), n, n); };
  if (few) {
    torch::stable::parallel_for(0, m, 1, [&](int64_t from, int64_t to) {
      for (int64_t v = from; v < to; ++v) make_factor(v, nullptr);
    });
  } else {
    RowBuffer<double> work(n, n);
    const auto is_last = [&](int64_t v) { return std::find(last.begin(), last.end(), v) != last.end(); };
    for (int64_t v = 0; v < m; ++v)
      if (!is_last(v)) make_factor(v, &work);
    for (int64_t v : last) {
      make_factor(v, &work);
      for (int64_t p = 0; p < pairs; ++p)
        if (first[p] == v || second[p] == v) sum(p);
    }
  }
  for (int64_t p = 0; p < pairs; ++p)
    if (last.empty() || (place[first[p]] < next && place[second[p]] < next)) sum(p);
  return {values, grams.kept(), factors};
}

// What the gradient of a variable has of the factor of each partner.
inline std::vector<double> partner_coefficients(int64_t own, const std::vector<int64_t>& partners,
                                                const std::vector<int64_t>& first,
                                                const std::vector<int64_t>& second, const double* grads) {
  std::vector<double> coefficients;
  for (int64_t partner : partners)
    coefficients.push_back(gradient_of_side({own, partner}, first, second, grads));
  return coefficients;
}

// A stretch of the sum of the factors, [partners, n, n], that begins at entry `begin`.
inline void sum_of_factors(const std::vector<double>& coefficients, const double* factors, int64_t size,
                           int64_t begin, double* out, int64_t count) {
  std::fill(out, out + count, 0.0);
  for (size_t b = 0; b < coefficients.size(); ++b)
    if (coefficients[b] != 0)
      add_scaled(coefficients[b], factors + static_cast<int64_t>(b) * size + begin, out, count);
}

}  // namespace bido
