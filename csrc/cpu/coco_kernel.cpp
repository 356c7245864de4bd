// SPDX-License-Identifier: Apache-2.0
//
// coco with the Frobenius norm on the CPU: sqrt(|Kc Lc|_F) / n, Kc = H K H, for all variables and pairs of a
// step in one call, the algebra in float64. coco_backward_kernel.cpp has the gradient.
//
// |Kc Lc|_F^2 = <Kc^2, Lc^2>: one square per variable instead of one product per pair, of which one half is
// computed, and that of labels needs none. The composition (ops/coco.py) serves the spectral norm, which
// needs an eigenvector, and float32 algebra, in which <Kc^2, Lc^2> may cancel.
#include <cmath>
#include <string>
#include <vector>

#include "centered_gram.h"
#include "mirror.h"
#include "pair_arguments.h"
#include "pair_factors.h"

namespace bido {
namespace {

// Kc^2, with the rows of `work` for Kc.
template <typename T>
void square_of_gram(const T* gram, bool given, int64_t n, double* out, RowBuffer<double>& work) {
  const CenteredGram<T> Kc(gram, given, n);
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) Kc.fill(i, 0, work.row(i));
  });
  multiply_rows(work, work, out, n, true);
  mirror_upper(out, n, n);
}

// Lc^2 of L = scale [y_i = y_j] in closed form: L = scale Y Y' with Y one-hot, so that with Yc = H Y and the
// share p_c = n_c / n of each class Lc^2 = scale^2 Yc (Yc'Yc) Yc', Yc'Yc = diag(n_c) - n p p'. With the size
// n_i of the class of sample i, q = sum p_c^2, r = sum p_c^3 and u_i = n_i (q - n_i / n):
//   Lc^2_ij / scale^2 = n_i [y_i = y_j] - n_i n_j / n + u_i + u_j + n (r - q^2).
void square_of_labels(const int64_t* y, double scale, int64_t n, double* out) {
  const auto count = static_cast<double>(n);
  const std::vector<double> sizes = class_sizes(y, n);
  std::vector<double> u(n);
  double q = 0, r = 0;
  for (double size : sizes) {
    q += size;
    r += size * size;
  }
  q /= count * count;
  r /= count * count * count;
  for (int64_t i = 0; i < n; ++i) u[i] = sizes[i] * (q - sizes[i] / count);
  torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < n; ++j)
        out[i * n + j] = scale * scale *
                         ((y[i] == y[j] ? sizes[i] : 0.0) - sizes[i] * sizes[j] / count +
                          (u[i] + u[j] + count * (r - q * q)));
  });
}

template <typename T>
PairFactors forward(const std::vector<Tensor>& variables, const Tensor& parameters,
                    const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                    const std::vector<int64_t>& second, const std::vector<int64_t>& wanted) {
  const int64_t n = variables[0].size(0);
  const auto square = [&](const FactorRequest<T>& asked) {
    const Variable<T>& v = asked.variable;
    if (v.is_labels())
      return square_of_labels(static_cast<const int64_t*>(v.data.const_data_ptr()), asked.parameter, n,
                              asked.out);
    if (asked.work != nullptr) return square_of_gram<T>(asked.gram, v.is_gram(), n, asked.out, *asked.work);
    RowBuffer<double> own(n, n);
    square_of_gram<T>(asked.gram, v.is_gram(), n, asked.out, own);
  };
  return factor_pairs<T>("coco", variables, parameters, kinds, first, second, wanted, square);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> coco_cpu(std::vector<Tensor> variables, Tensor parameters,
                                            std::vector<int64_t> kinds, std::vector<int64_t> first,
                                            std::vector<int64_t> second, std::string norm, bool wide,
                                            std::vector<int64_t> wanted) {
  check_pairs("coco", variables, kinds, first, second);
  check_wanted("coco", kinds, wanted);
  STD_TORCH_CHECK(norm == "fro" && wide, "coco: the kernel has the Frobenius norm, computed in float64");
  const auto run = group_dtype(variables, kinds) == ScalarType::Double ? &forward<double> : &forward<float>;
  const PairFactors result = run(variables, parameters, kinds, first, second, wanted);
  auto* value = static_cast<double*>(result.values.mutable_data_ptr());
  const auto n = static_cast<double>(variables[0].size(0));
  for (size_t p = 0; p < first.size(); ++p)  // round-off may be negative; NaN stays
    value[p] = value[p] < 0 ? 0.0 : std::sqrt(std::sqrt(value[p])) / n;
  return {result.values, result.stack, result.factors};
}

}  // namespace bido

// The composition serves what this kernel does not take: bido_ext/_serve.py chooses.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def(
      "coco(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, str norm,"
      " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "coco_backward(Tensor grad, Tensor values, Tensor[] variables, Tensor parameters, Tensor stack,"
      " Tensor kept, int[] kinds, int[] first, int[] second, str norm, int[] wanted) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("coco", TORCH_BOX(&bido::coco_cpu)); }
