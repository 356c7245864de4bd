// SPDX-License-Identifier: Apache-2.0
//
// Pairs of a group as inner products of factors, <F_a, F_b>: each variable has one factor [n, n] in float64,
// S in nhsic and Kc^2 in coco. All of a step in one call, and in the backward what the factors of the
// partners add to the gradient of a variable.
//
// Few samples (BiDO's batches): one thread per variable. More: all threads work on one variable after the
// other, and what no gradient needs goes when it is used.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/partners.h"
#include "gram_stack.h"
#include "hsic_sums.h"
#include "row_products.h"
#include "variable.h"

namespace bido {

constexpr int64_t kFewSamples = 128;  // up to here a thread has variables of its own

// <a, b> of two [n, n] matrices: blocks of rows side by side, added up in order.
inline double inner_product_of_matrices(const double* a, const double* b, int64_t n) {
  constexpr int64_t kRows = 64;
  const int64_t blocks = (n + kRows - 1) / kRows;
  std::vector<double> sums(blocks);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k)
      sums[k] = row_product(a + k * kRows * n, b + k * kRows * n, std::min(kRows, n - k * kRows) * n);
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

// The size of the class of each sample.
inline std::vector<double> class_sizes(const int64_t* y, int64_t n) {
  std::vector<double> sizes(n);
  torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) sizes[i] = static_cast<double>(std::count(y, y + n, y[i]));
  });
  return sizes;
}

// Where the Gram matrices of the variables lie: those of the wanted ones first, for they are kept.
inline std::vector<int64_t> order_of_grams(const std::vector<int64_t>& kinds,
                                           const std::vector<int64_t>& wanted) {
  std::vector<int64_t> order = wanted;
  for (int64_t v = 0; v < static_cast<int64_t>(kinds.size()); ++v)
    if (static_cast<KernelKind>(kinds[v]) != KernelKind::labels &&
        std::find(wanted.begin(), wanted.end(), v) == wanted.end())
      order.push_back(v);
  return order;
}

struct PairFactors {
  Tensor values, stack, factors;  // [pairs]; Gram matrices of `wanted`; factors of their partners
};

// What is asked for a factor: gram is null for labels, `kept` the place of the variable among the wanted ones
// or -1. `work`: n rows of n entries, null where every thread has variables of its own.
template <typename T>
struct FactorRequest {
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
  const auto kept = static_cast<int64_t>(wanted.size()), pairs = static_cast<int64_t>(first.size());
  const auto* parameter = static_cast<const double*>(parameters.const_data_ptr());

  const std::vector<int64_t> order = order_of_grams(kinds, wanted),
                             partners = partners_of(first, second, wanted);
  const auto matrices = static_cast<int64_t>(order.size());
  const auto stack_of = [&](int64_t from, int64_t to) {
    std::vector<Tensor> data;
    std::vector<int64_t> data_kinds;
    Tensor data_parameters = empty_like_with(parameters, {to - from}, ScalarType::Double);
    for (int64_t k = from; k < to; ++k) {
      data.push_back(variables[order[k]]);
      data_kinds.push_back(kinds[order[k]]);
      static_cast<double*>(data_parameters.mutable_data_ptr())[k - from] = parameter[order[k]];
    }
    return from < to ? gram_stack_cpu(data, data_parameters, data_kinds)
                     : empty_like_with(parameters, {0, n, n}, scalar_type_of<T>());
  };
  // Few samples: one call for all. Many: the Gram matrices that the backward does not need go when they are
  // used.
  const bool few = n <= kFewSamples;
  Tensor grams = stack_of(0, few ? matrices : kept);
  const Tensor other_grams = stack_of(few ? matrices : kept, matrices);
  const auto gram = [&](int64_t t) {
    return few || t < kept ? static_cast<const T*>(grams.const_data_ptr()) + t * size
                           : static_cast<const T*>(other_grams.const_data_ptr()) + (t - kept) * size;
  };

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
    const int64_t t = std::find(order.begin(), order.end(), v) - order.begin();
    factorise(FactorRequest<T>{group[v], parameter[v], group[v].is_labels() ? nullptr : gram(t),
                               t < kept ? t : -1, factor(v), work});
  };
  const auto sum = [&](int64_t p) {
    value[p] = inner_product_of_matrices(factor(first[p]), factor(second[p]), n);
  };
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
  return {values, torch::stable::narrow(grams, 0, 0, kept), factors};
}

// What the gradient of a variable has of the factor of each partner.
inline std::vector<double> partner_coefficients(int64_t own, const std::vector<int64_t>& partners,
                                                const std::vector<int64_t>& first,
                                                const std::vector<int64_t>& second, const double* grads) {
  std::vector<double> coefficients(partners.size(), 0.0);
  for (size_t b = 0; b < partners.size(); ++b)
    for (size_t p = 0; p < first.size(); ++p)  // a pair of a variable with itself counts twice
      coefficients[b] +=
          ((first[p] == own && second[p] == partners[b]) + (second[p] == own && first[p] == partners[b])) *
          grads[p];
  return coefficients;
}

template <typename T>
BIDO_VECTORIZE void add_scaled(T factor, const T* row, T* out, int64_t count) {
  for (int64_t k = 0; k < count; ++k) out[k] += factor * row[k];
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
