// SPDX-License-Identifier: Apache-2.0
//
// coco_backward on the CPU, Frobenius norm: with M = Kc Lc
//   G = sum_p grad_p sym(M Lc) |M|_F^(-3/2) / (2 n),
// and grad_x of G as in gram_stack. What the partners that are not labels add, coco_kernel.cpp kept; products
// with labels are sums over classes and made again.
#include <algorithm>
#include <string>
#include <vector>

#include "centered_gram.h"
#include "group_grams.h"
#include "label_product.h"
#include "mirror.h"
#include "pair_arguments.h"
#include "row_products.h"
#include "sides.h"
#include "weights.h"

namespace bido {
namespace {

struct LabelTerm {
  LabelProduct product;
  double coefficient;  // of Lc^2 Kc
};

// G of one wanted variable, a sum of kept matrices and of terms of labels.
template <typename T>
struct GradientOfGram {
  const T* gram;
  bool given;  // the user's own, whose gradient is symmetric here; for others that is part of the next step
  std::vector<std::pair<const T*, double>> kept;
  std::vector<LabelTerm> labels;

  void fill(T* out, int64_t n) const {
    const CenteredGram<T> Kc(gram, given, n);
    RowBuffer<double> whole(given ? n : 0, n);  // the symmetric part needs all entries at once
    const int64_t blocks = (n + kLabelColumns - 1) / kLabelColumns;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      std::vector<std::vector<double>> products;
      for (const LabelTerm& term : labels)
        products.emplace_back(term.product.classes().count() * kLabelColumns);
      double row[kLabelColumns];
      for (int64_t block = first; block < last; ++block) {
        const int64_t j = block * kLabelColumns, width = std::min(kLabelColumns, n - j);
        for (size_t t = 0; t < labels.size(); ++t) {
          const auto columns = [&](int64_t i, double* centered) { Kc.fill(i, j, width, centered); };
          labels[t].product.multiply(columns, width, products[t].data());
          labels[t].product.multiply_again(products[t].data(), width);
        }
        for (int64_t i = 0; i < n; ++i) {
          double* G = given ? whole.row(i) + j : row;
          std::fill(G, G + width, 0.0);
          for (const auto& [matrix, coefficient] : kept)
            add_scaled(coefficient, matrix + i * n + j, G, width);
          for (size_t t = 0; t < labels.size(); ++t) {
            const int64_t c = labels[t].product.classes().class_of(i);
            add_scaled(labels[t].coefficient, products[t].data() + c * width, G, width);
          }
          if (!given)
            for (int64_t k = 0; k < width; ++k) out[i * n + j + k] = static_cast<T>(G[k]);
        }
      }
    });
    if (given) symmetric_part(whole.row(0), whole.stride(), out, n);
  }
};

template <typename T>
std::vector<Tensor> backward(const Tensor& grad, const Tensor& values, const std::vector<Tensor>& variables,
                             const Tensor& parameters, const Tensor& stack, const Tensor& kept,
                             const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                             const std::vector<int64_t>& second, const std::vector<int64_t>& wanted) {
  const auto group = make_group<T>("coco_backward", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), size = n * n, count = static_cast<int64_t>(wanted.size());
  const std::vector<Side> sides = sides_of(kinds, first, second, wanted);
  const auto* of_pair = static_cast<const double*>(grad.const_data_ptr());
  const auto* value = static_cast<const double*>(values.const_data_ptr());
  const auto* side_gradient = static_cast<const T*>(kept.const_data_ptr());
  const auto* gram = static_cast<const T*>(stack.const_data_ptr());

  const auto terms_of = [&](int64_t w) {
    const int64_t own = wanted[w];
    GradientOfGram<T> G{gram + w * size, group[own].is_gram(), {}, {}};
    for (size_t s = 0; s < sides.size(); ++s) {
      if (sides[s].own != own) continue;
      G.kept.push_back({side_gradient + static_cast<int64_t>(s) * size,
                        gradient_of_side(sides[s], first, second, of_pair)});
    }
    std::vector<int64_t> labels;
    for (size_t p = 0; p < first.size(); ++p) {
      const int64_t other = first[p] == own ? second[p] : first[p];
      if ((first[p] != own && second[p] != own) || !group[other].is_labels()) continue;
      const double root = value[p] * static_cast<double>(n);  // |M|_F^(1/2); the gradient is 0 where it is
      const double coefficient =
          value[p] > 0 ? of_pair[p] / (2 * static_cast<double>(n) * root * root * root) : 0 * value[p];
      const size_t known = std::find(labels.begin(), labels.end(), other) - labels.begin();
      if (known < labels.size()) {
        G.labels[known].coefficient += coefficient;
        continue;
      }
      const auto* y = static_cast<const int64_t*>(group[other].data.const_data_ptr());
      G.labels.push_back({LabelProduct(y, group[other].exact_parameter, n), coefficient});
      labels.push_back(other);
    }
    return G;
  };
  std::vector<Tensor> grads;
  const auto matrix = [&] { return empty_like_with(stack, {n, n}, scalar_type_of<T>()); };
  const auto fill = [&](int64_t w, Tensor& G) { terms_of(w).fill(static_cast<T*>(G.mutable_data_ptr()), n); };
  const auto finish = [&](int64_t w, const Tensor& G) {
    grads.push_back(gradient_of_variable<T>(group[wanted[w]], G, gram + w * size));
  };
  if (n > kFewSamples) {
    for (int64_t w = 0; w < count; ++w) {
      Tensor G = matrix();
      fill(w, G);
      finish(w, G);
    }
    return grads;
  }
  std::vector<Tensor> gradients;  // few samples: a variable per thread
  for (int64_t w = 0; w < count; ++w) gradients.push_back(matrix());
  torch::stable::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t w = from; w < to; ++w) fill(w, gradients[w]);
  });
  for (int64_t w = 0; w < count; ++w) finish(w, gradients[w]);
  return grads;
}

}  // namespace

std::vector<Tensor> coco_backward_cpu(Tensor grad, Tensor values, std::vector<Tensor> variables,
                                      Tensor parameters, Tensor stack, Tensor kept,
                                      std::vector<int64_t> kinds, std::vector<int64_t> first,
                                      std::vector<int64_t> second, std::string norm, bool wide,
                                      std::vector<int64_t> wanted) {
  check_pairs("coco_backward", variables, kinds, first, second);
  check_wanted("coco_backward", kinds, wanted);
  STD_TORCH_CHECK(norm == "fro" && wide,
                  "coco_backward: the kernel has the Frobenius norm, computed in float64");
  const ScalarType dtype = group_dtype(variables, kinds);
  const int64_t size = variables[0].size(0) * variables[0].size(0),
                pairs = static_cast<int64_t>(first.size());
  const auto sides = static_cast<int64_t>(sides_of(kinds, first, second, wanted).size());
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && values.scalar_type() == ScalarType::Double &&
                      stack.scalar_type() == dtype && kept.scalar_type() == dtype && grad.numel() == pairs &&
                      values.numel() == pairs &&
                      stack.numel() == static_cast<int64_t>(wanted.size()) * size &&
                      kept.numel() == sides * size,
                  "coco_backward: what is given must be what the forward kept");
  const auto run = dtype == ScalarType::Double ? &backward<double> : &backward<float>;
  return run(torch::stable::contiguous(grad), torch::stable::contiguous(values), variables, parameters,
             torch::stable::contiguous(stack), torch::stable::contiguous(kept), kinds, first, second, wanted);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("coco_backward", TORCH_BOX(&bido::coco_backward_cpu)); }
