// SPDX-License-Identifier: Apache-2.0
//
// nhsic on the CPU for few samples (n <= 128, BiDO's batches): tr(S_K S_L), S = I - c P,
// P = (H K H + c I)^-1, c = eps n, for all variables and pairs of a step in one call, in float64.
//
// For few samples the algebra is short, but as a composition it is some 400 calls of PyTorch, which took as
// long as half of the products. H K H + c I is positive definite: swept in place without a search for
// pivots. A pivot that is not positive turns the result into NaN, as a failed Cholesky factorisation does in
// the composition (ops/nhsic.py), which serves larger n and float32 algebra.
//   G = c P (sum_b grad_b S_b) P,   grad_x = (A - diag(A 1)) x as in gram_stack
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "../common/partners.h"
#include "gram_stack.h"
#include "scratch.h"
#include "variable.h"
#include "weights.h"

namespace bido {
namespace {

constexpr int64_t kMostRows = 128;
constexpr int64_t kGradientRows = 16;  // of G in a task

// The negative inverse of a symmetric positive definite matrix, in place, by the sweep operator: on and above
// the diagonal. What lies below never counts; some of it is computed, to keep vectors whole. `column` holds n
// entries.
BIDO_VECTORIZE bool sweep(double* a, double* column, int64_t n) {
  bool positive = true;
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t j = 0; j < k; ++j) column[j] = a[j * n + k];
    for (int64_t j = k; j < n; ++j) column[j] = a[k * n + j];
    const double pivot = column[k], p = 1 / pivot;
    positive = positive && pivot > 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i == k) continue;
      double* row = a + i * n;
      const double factor = column[i] * p;
      for (int64_t j = i / kLanes * kLanes; j < n; ++j) row[j] -= factor * column[j];
      (i < k ? row[k] : a[k * n + i]) = factor;
    }
    a[k * n + k] = -p;
  }
  return positive;
}

// out += left[0..n) b, rows of [n, n].
BIDO_VECTORIZE void add_product(const double* left, const double* b, double* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k)
    for (int64_t j = 0; j < n; ++j) out[j] += left[k] * b[k * n + j];
}

// S and, unless null, P of a Gram matrix up to centering.
template <typename T>
void factor_of_gram(const T* gram, double c, int64_t n, double* S, double* P) {
  std::vector<double> means(n), column(n);
  double mean = 0;
  const auto symmetric = [&](int64_t i, int64_t j) {  // the user's own Gram matrix need not quite be it
    return (static_cast<double>(gram[i * n + j]) + static_cast<double>(gram[j * n + i])) / 2;
  };
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += symmetric(i, j);
    means[i] = sum / static_cast<double>(n);
    mean += means[i] / static_cast<double>(n);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) S[i * n + j] = symmetric(i, j) - means[i] - (means[j] - mean);
    S[i * n + i] += c;
  }
  if (!sweep(S, column.data(), n)) std::fill(S, S + n * n, std::numeric_limits<double>::quiet_NaN());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      const double swept = S[i * n + j];
      if (P != nullptr) P[i * n + j] = P[j * n + i] = -swept;
      S[i * n + j] = S[j * n + i] = (i == j ? 1.0 : 0.0) + c * swept;
    }
  }
}

// S of scale H [y_i = y_j] H in closed form, as ops/nhsic.py: label_factor.
void factor_of_labels(const int64_t* y, double scale, double c, int64_t n, double* S) {
  const double ridge = c / scale, count = static_cast<double>(n);
  std::vector<double> weight(n), offset(n);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    weight[i] = 1 / (static_cast<double>(std::count(y, y + n, y[i])) + ridge);
    offset[i] = ridge * weight[i];  // g
    total += offset[i];
  }
  const double mean = total / count;
  for (double& g : offset) g -= mean;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      S[i * n + j] = (y[i] == y[j] ? weight[i] : 0.0) + (offset[i] + offset[j] - (1 - mean)) / count +
                     offset[i] * offset[j] / total;
}

BIDO_VECTORIZE double inner_product(const double* a, const double* b, int64_t count) {
  double lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += a[k + l] * b[k + l];
  double sum = 0;
  for (; k < count; ++k) sum += a[k] * b[k];
  for (double lane : lanes) sum += lane;
  return sum;
}

void check(const char* op, const std::vector<Tensor>& variables, const std::vector<int64_t>& kinds,
           const std::vector<int64_t>& first, const std::vector<int64_t>& second,
           const std::vector<int64_t>& wanted) {
  STD_TORCH_CHECK(!variables.empty() && variables.size() == kinds.size() && first.size() == second.size(), op,
                  ": needs variables, one kind for each, and pairs");
  const auto m = static_cast<int64_t>(variables.size());
  for (size_t p = 0; p < first.size(); ++p)
    STD_TORCH_CHECK(first[p] >= 0 && first[p] < m && second[p] >= 0 && second[p] < m, op,
                    ": a pair names a variable that is not there");
  for (int64_t v : wanted)
    STD_TORCH_CHECK(v >= 0 && v < m && static_cast<KernelKind>(kinds[v]) != KernelKind::labels, op,
                    ": only features and Gram matrices that are there have a gradient");
  STD_TORCH_CHECK(std::set<int64_t>(wanted.begin(), wanted.end()).size() == wanted.size(), op,
                  ": a gradient is wanted twice");
  STD_TORCH_CHECK(variables[0].size(0) <= kMostRows, op, ": the kernel takes n <= ", kMostRows);
}

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
  std::vector<Tensor> data;
  std::vector<int64_t> data_kinds;
  Tensor data_parameters = empty_like_with(parameters, {matrices}, ScalarType::Double);
  for (int64_t k = 0; k < matrices; ++k) {
    data.push_back(variables[order[k]]);
    data_kinds.push_back(kinds[order[k]]);
    static_cast<double*>(data_parameters.mutable_data_ptr())[k] = parameter[order[k]];
  }
  Tensor grams = matrices > 0 ? gram_stack_cpu(data, data_parameters, data_kinds)
                              : empty_like_with(parameters, {0, n, n}, scalar_type_of<T>());

  // Factors that the backward needs come first, in the order of `partners`.
  std::vector<int64_t> place(m, -1);
  for (size_t b = 0; b < partners.size(); ++b) place[partners[b]] = static_cast<int64_t>(b);
  auto next = static_cast<int64_t>(partners.size());
  for (int64_t v = 0; v < m; ++v)
    if (place[v] < 0) place[v] = next++;
  Tensor inverses = empty_like_with(parameters, {kept, n, n}, ScalarType::Double);
  Tensor factors = empty_like_with(parameters, {m, n, n}, ScalarType::Double);
  Tensor values = empty_like_with(parameters, {pairs}, ScalarType::Double);
  auto* S = static_cast<double*>(factors.mutable_data_ptr());
  auto* P = static_cast<double*>(inverses.mutable_data_ptr());
  const T* gram = static_cast<const T*>(grams.const_data_ptr());
  torch::stable::parallel_for(0, m, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      if (t < matrices) {
        factor_of_gram<T>(gram + t * size, c, n, S + place[order[t]] * size,
                          t < kept ? P + t * size : nullptr);
        continue;
      }
      int64_t v = 0;  // the labels behind them, one after the other
      for (int64_t skip = t - matrices; !group[v].is_labels() || skip-- > 0;) ++v;
      factor_of_labels(static_cast<const int64_t*>(group[v].data.const_data_ptr()), parameter[v], c, n,
                       S + place[v] * size);
    }
  });
  auto* value = static_cast<double*>(values.mutable_data_ptr());
  for (int64_t p = 0; p < pairs; ++p)
    value[p] = inner_product(S + place[first[p]] * size, S + place[second[p]] * size, size);
  return {values, torch::stable::narrow(grams, 0, 0, kept), inverses,
          torch::stable::narrow(factors, 0, 0, static_cast<int64_t>(partners.size()))};
}

// Symmetric, centered and in the dtype of the Gram matrix.
template <typename T>
void finish_gradient(const double* G, T* out, int64_t n) {
  std::vector<double> means(n, 0.0);
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) means[i] += (G[i * n + j] + G[j * n + i]) / 2;
    means[i] /= static_cast<double>(n);
    mean += means[i] / static_cast<double>(n);
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      out[i * n + j] = static_cast<T>((G[i * n + j] + G[j * n + i]) / 2 - means[i] - (means[j] - mean));
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad, const std::vector<Tensor>& variables,
                             const Tensor& parameters, const Tensor& stack, const Tensor& inverses,
                             const Tensor& factors, const std::vector<int64_t>& kinds,
                             const std::vector<int64_t>& first, const std::vector<int64_t>& second,
                             double eps, const std::vector<int64_t>& wanted) {
  const auto group = make_group<T>("nhsic_backward", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, count = static_cast<int64_t>(wanted.size());
  const double c = eps * static_cast<double>(n);
  const std::vector<int64_t> partners = partners_of(first, second, wanted);
  const auto* g = static_cast<const double*>(grad.const_data_ptr());
  const auto* P = static_cast<const double*>(inverses.const_data_ptr());
  const auto* S = static_cast<const double*>(factors.const_data_ptr());
  const auto* gram = static_cast<const T*>(stack.const_data_ptr());

  const Scratch<double> sums = make_scratch<double>(count * size),
                        products = make_scratch<double>(count * size);
  std::fill(sums.get(), sums.get() + count * size, 0.0);
  torch::stable::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t w = from; w < to; ++w) {
      for (size_t b = 0; b < partners.size(); ++b) {
        double coefficient = 0;
        for (size_t p = 0; p < first.size(); ++p)  // a pair of a variable with itself counts twice
          coefficient += ((first[p] == wanted[w] && second[p] == partners[b]) +
                          (second[p] == wanted[w] && first[p] == partners[b])) *
                         g[p];
        if (coefficient == 0) continue;
        const double* partner = S + static_cast<int64_t>(b) * size;
        for (int64_t k = 0; k < size; ++k) sums[w * size + k] += coefficient * partner[k];
      }
    }
  });
  const int64_t blocks = (n + kGradientRows - 1) / kGradientRows;
  torch::stable::parallel_for(0, count * blocks, 1, [&](int64_t from, int64_t to) {
    std::vector<double> left(n);
    for (int64_t t = from; t < to; ++t) {
      const int64_t w = t / blocks, begin = t % blocks * kGradientRows;
      for (int64_t i = begin; i < std::min(n, begin + kGradientRows); ++i) {
        double* out = products.get() + w * size + i * n;
        std::fill(left.begin(), left.end(), 0.0);
        std::fill(out, out + n, 0.0);
        add_product(P + w * size + i * n, sums.get() + w * size, left.data(), n);
        add_product(left.data(), P + w * size, out, n);
        for (int64_t j = 0; j < n; ++j) out[j] *= c;
      }
    }
  });
  std::vector<Tensor> grads;
  for (int64_t w = 0; w < count; ++w) {
    const Variable<T>& v = group[wanted[w]];
    Tensor G = empty_like_with(stack, {n, n}, scalar_type_of<T>());
    T* entries = static_cast<T*>(G.mutable_data_ptr());
    finish_gradient<T>(products.get() + w * size, entries, n);
    grads.push_back(v.is_gram() ? G : gradient_of_features<T>(v, false, entries, gram + w * size));
  }
  return grads;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> nhsic_cpu(std::vector<Tensor> variables, Tensor parameters,
                                                     std::vector<int64_t> kinds, std::vector<int64_t> first,
                                                     std::vector<int64_t> second, double eps, bool wide,
                                                     std::vector<int64_t> wanted) {
  check("nhsic", variables, kinds, first, second, wanted);
  STD_TORCH_CHECK(wide, "nhsic: the kernel computes in float64");
  const auto run = group_dtype(variables, kinds) == ScalarType::Double ? &forward<double> : &forward<float>;
  return run(variables, parameters, kinds, first, second, eps, wanted);
}

std::vector<Tensor> nhsic_backward_cpu(Tensor grad, std::vector<Tensor> variables, Tensor parameters,
                                       Tensor stack, Tensor inverses, Tensor factors,
                                       std::vector<int64_t> kinds, std::vector<int64_t> first,
                                       std::vector<int64_t> second, double eps, std::vector<int64_t> wanted) {
  check("nhsic_backward", variables, kinds, first, second, wanted);
  const ScalarType dtype = group_dtype(variables, kinds);
  const int64_t size = variables[0].size(0) * variables[0].size(0),
                count = static_cast<int64_t>(wanted.size()),
                partners = static_cast<int64_t>(partners_of(first, second, wanted).size());
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && stack.scalar_type() == dtype &&
                      inverses.scalar_type() == ScalarType::Double &&
                      factors.scalar_type() == ScalarType::Double &&
                      grad.numel() == static_cast<int64_t>(first.size()) && stack.numel() == count * size &&
                      inverses.numel() == count * size && factors.numel() == partners * size,
                  "nhsic_backward: what is given must be what the forward kept");
  const auto run = dtype == ScalarType::Double ? &backward<double> : &backward<float>;
  return run(torch::stable::contiguous(grad), variables, parameters, torch::stable::contiguous(stack),
             torch::stable::contiguous(inverses), torch::stable::contiguous(factors), kinds, first, second,
             eps, wanted);
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

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) {
  m.impl("nhsic", TORCH_BOX(&bido::nhsic_cpu));
  m.impl("nhsic_backward", TORCH_BOX(&bido::nhsic_backward_cpu));
}
