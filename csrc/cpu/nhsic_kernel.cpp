// SPDX-License-Identifier: Apache-2.0
//
// nhsic on the CPU: tr(S_K S_L), S = I - c P, P = (H K H + c I)^-1, c = eps n, for all variables and pairs of
// a step in one call, the algebra in float64. nhsic_backward_kernel.cpp has the gradient.
//
// Few samples (n <= 128, BiDO's batches): one thread per variable. As a composition the algebra is some 400
// calls of PyTorch, which took as long as half of the products. More: all threads work on one variable, with
// the products of this package; P and P T P are symmetric, so one half is computed. H K H + c I is positive
// definite; a pivot that is not positive turns the result into NaN, as a failed Cholesky factorisation does
// in the composition (ops/nhsic.py), which serves float32 algebra.
#include <algorithm>
#include <vector>

#include "../common/partners.h"
#include "gram_stack.h"
#include "nhsic_arguments.h"
#include "nhsic_factors.h"
#include "scratch.h"
#include "variable.h"

namespace bido {
namespace {

// Where the matrices of the variables lie: those of the wanted ones first, for they are kept.
std::vector<int64_t> order_of(const std::vector<int64_t>& kinds, const std::vector<int64_t>& wanted) {
  std::vector<int64_t> order = wanted;
  for (int64_t v = 0; v < static_cast<int64_t>(kinds.size()); ++v)
    if (static_cast<KernelKind>(kinds[v]) != KernelKind::labels &&
        std::find(wanted.begin(), wanted.end(), v) == wanted.end())
      order.push_back(v);
  return order;
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const std::vector<Tensor>& variables,
                                                   const Tensor& parameters,
                                                   const std::vector<int64_t>& kinds,
                                                   const std::vector<int64_t>& first,
                                                   const std::vector<int64_t>& second, double eps,
                                                   const std::vector<int64_t>& wanted) {
  const auto group = make_group<T>("nhsic", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, m = static_cast<int64_t>(group.size());
  const auto kept = static_cast<int64_t>(wanted.size()), pairs = static_cast<int64_t>(first.size());
  const double c = eps * static_cast<double>(n);
  const auto* parameter = static_cast<const double*>(parameters.const_data_ptr());

  const std::vector<int64_t> order = order_of(kinds, wanted), partners = partners_of(first, second, wanted);
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
  Tensor inverses = empty_large(parameters, {kept, n, n}, ScalarType::Double);
  Tensor factors = empty_large(parameters, {kept_factors, n, n}, ScalarType::Double);
  const Scratch<double> other_factors = make_scratch<double>(others * size);
  Tensor values = empty_like_with(parameters, {pairs}, ScalarType::Double);
  auto* kept_S = static_cast<double*>(factors.mutable_data_ptr());
  auto* P = static_cast<double*>(inverses.mutable_data_ptr());
  const auto S = [&](int64_t v) {
    return place[v] < kept_factors ? kept_S + place[v] * size
                                   : other_factors.get() + (place[v] - kept_factors) * size;
  };
  auto* value = static_cast<double*>(values.mutable_data_ptr());
  const auto factorise = [&](int64_t v, RowBuffer<double>* work) {
    double* out = S(v);
    if (group[v].is_labels())
      return factor_of_labels(static_cast<const int64_t*>(group[v].data.const_data_ptr()), parameter[v], c, n,
                              out);
    const int64_t t = std::find(order.begin(), order.end(), v) - order.begin();
    double* inverse = t < kept ? P + t * size : nullptr;
    if (work == nullptr)
      factor_of_few<T>(gram(t), group[v].is_gram(), c, n, out, inverse);
    else
      factor_of_many<T>(gram(t), group[v].is_gram(), c, n, out, inverse, *work);
  };
  if (few) {
    torch::stable::parallel_for(0, m, 1, [&](int64_t from, int64_t to) {
      for (int64_t v = from; v < to; ++v) factorise(v, nullptr);
    });
  } else {
    RowBuffer<double> work(n, n);
    const auto is_last = [&](int64_t v) { return std::find(last.begin(), last.end(), v) != last.end(); };
    for (int64_t v = 0; v < m; ++v)
      if (!is_last(v)) factorise(v, &work);
    for (int64_t v : last) {
      factorise(v, &work);
      for (int64_t p = 0; p < pairs; ++p)
        if (first[p] == v || second[p] == v)
          value[p] = inner_product_of_matrices(S(first[p]), S(second[p]), n);
    }
  }
  for (int64_t p = 0; p < pairs; ++p)
    if (last.empty() || (place[first[p]] < next && place[second[p]] < next))
      value[p] = inner_product_of_matrices(S(first[p]), S(second[p]), n);
  return {values, torch::stable::narrow(grams, 0, 0, kept), inverses, factors};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> nhsic_cpu(std::vector<Tensor> variables, Tensor parameters,
                                                     std::vector<int64_t> kinds, std::vector<int64_t> first,
                                                     std::vector<int64_t> second, double eps, bool wide,
                                                     std::vector<int64_t> wanted) {
  check_nhsic("nhsic", variables, kinds, first, second, wanted);
  STD_TORCH_CHECK(wide, "nhsic: the kernel computes in float64");
  const auto run = group_dtype(variables, kinds) == ScalarType::Double ? &forward<double> : &forward<float>;
  return run(variables, parameters, kinds, first, second, eps, wanted);
}

}  // namespace bido

// The composition serves what this kernel does not take: bido_ext/_serve.py chooses.
STABLE_TORCH_LIBRARY(bido_cpu, m) {
  m.def(
      "nhsic(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, float eps,"
      " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "nhsic_backward(Tensor grad, Tensor[] variables, Tensor parameters, Tensor stack, Tensor inverses,"
      " Tensor factors, int[] kinds, int[] first, int[] second, float eps, int[] wanted) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("nhsic", TORCH_BOX(&bido::nhsic_cpu)); }
