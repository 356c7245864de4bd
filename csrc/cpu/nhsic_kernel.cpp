// SPDX-License-Identifier: Apache-2.0
//
// nhsic on the CPU: tr(S_K S_L), S = I - c P, P = (H K H + c I)^-1, c = eps n, for all variables and pairs of
// a step in one call, the algebra in float64. nhsic_backward_kernel.cpp has the gradient.
//
// As a composition the algebra of BiDO's batches is some 400 calls of PyTorch, which took as long as half of
// the products. P and P T P are symmetric, so one half is computed. H K H + c I is positive definite; a pivot
// that is not positive turns the result into NaN, as a failed Cholesky factorisation does in the composition
// (ops/nhsic.py), which serves float32 algebra.
#include <atomic>
#include <limits>
#include <vector>

#include "nhsic_factors.h"
#include "pair_arguments.h"
#include "pair_factors.h"

namespace bido {
namespace {

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const std::vector<Tensor>& variables,
                                                   const Tensor& parameters,
                                                   const std::vector<int64_t>& kinds,
                                                   const std::vector<int64_t>& first,
                                                   const std::vector<int64_t>& second, double eps,
                                                   const std::vector<int64_t>& wanted) {
  const int64_t n = variables[0].size(0);
  const double c = eps * static_cast<double>(n);
  Tensor inverses = empty_large(parameters, {static_cast<int64_t>(wanted.size()), n, n}, ScalarType::Double);
  auto* P = static_cast<double*>(inverses.mutable_data_ptr());
  std::vector<std::atomic<bool>> coarse(variables.size());  // against c
  const auto factorise = [&](const FactorRequest<T>& asked) {
    const Variable<T>& v = asked.variable;
    double* inverse = asked.kept < 0 ? nullptr : P + asked.kept * n * n;
    if (v.is_labels())
      factor_of_labels(static_cast<const int64_t*>(v.data.const_data_ptr()), asked.parameter, c, n,
                       asked.out);
    else if (asked.work == nullptr)
      factor_of_few<T>(asked.gram, v.is_gram(), c, n, asked.out, inverse);
    else
      factor_of_many<T>(asked.gram, v.is_gram(), c, n, asked.out, inverse, *asked.work);
    if (v.is_features() && v.kind != KernelKind::linear)
      average_equal_rows(asked.gram, n, asked.out, inverse);
    coarse[asked.index] = !v.is_labels() && !resolves_ridge(asked.gram, v.is_gram(), asked.out, c, n);
  };
  const auto [values, stack, factors] =
      factor_pairs<T>("nhsic", variables, parameters, kinds, first, second, wanted, factorise);
  for (size_t p = 0; p < first.size(); ++p)
    if (coarse[first[p]] || coarse[second[p]])
      static_cast<double*>(values.mutable_data_ptr())[p] = std::numeric_limits<double>::quiet_NaN();
  return {values, stack, inverses, factors};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> nhsic_cpu(std::vector<Tensor> variables, Tensor parameters,
                                                     std::vector<int64_t> kinds, std::vector<int64_t> first,
                                                     std::vector<int64_t> second, double eps, bool wide,
                                                     std::vector<int64_t> wanted) {
  check_pairs("nhsic", variables, kinds, first, second);
  check_wanted("nhsic", kinds, wanted);
  STD_TORCH_CHECK(wide, "nhsic: the kernel computes in float64");
  const auto run = group_dtype(variables, kinds) == ScalarType::Double ? &forward<double> : &forward<float>;
  return run(variables, parameters, kinds, first, second, eps, wanted);
}

}  // namespace bido

// The composition serves what this kernel does not take: bido_ext/serving/on_cpu.py chooses.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def(
      "nhsic(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, float eps,"
      " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "nhsic_backward(Tensor grad, Tensor[] variables, Tensor parameters, Tensor stack, Tensor inverses,"
      " Tensor factors, int[] kinds, int[] first, int[] second, float eps, int[] wanted) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("nhsic", TORCH_BOX(&bido::nhsic_cpu)); }
