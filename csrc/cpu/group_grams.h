// SPDX-License-Identifier: Apache-2.0
//
// The Gram matrices of a group, of which those of the wanted variables are kept for the backward.
#pragma once

#include <algorithm>
#include <vector>

#include "gram_stack.h"
#include "variable.h"

namespace bido {

constexpr int64_t kFewSamples = 128;  // BiDO's batches: up to here a thread has variables of its own

template <typename T>
class GroupGrams {
 public:
  // Few samples: one call for all. Many: the Gram matrices that the backward does not need go with this.
  GroupGrams(const std::vector<Tensor>& variables, const Tensor& parameters,
             const std::vector<int64_t>& kinds, const std::vector<int64_t>& wanted)
      : n_(variables[0].size(0)), kept_(static_cast<int64_t>(wanted.size())), order_(wanted) {
    for (int64_t v = 0; v < static_cast<int64_t>(kinds.size()); ++v)
      if (static_cast<KernelKind>(kinds[v]) != KernelKind::labels && place_of_wanted(v) < 0)
        order_.push_back(v);
    const auto matrices = static_cast<int64_t>(order_.size());
    first_ = n_ <= kFewSamples ? matrices : kept_;
    grams_ = stack_of(variables, parameters, kinds, 0, first_);
    others_ = stack_of(variables, parameters, kinds, first_, matrices);
  }

  // Of features or a Gram matrix, [n, n]; null for labels.
  const T* gram(int64_t variable) const {
    const int64_t t = std::find(order_.begin(), order_.end(), variable) - order_.begin();
    if (t == static_cast<int64_t>(order_.size())) return nullptr;
    const Tensor& stack = t < first_ ? grams_ : others_;
    return static_cast<const T*>(stack.const_data_ptr()) + (t < first_ ? t : t - first_) * n_ * n_;
  }
  // Its place among the wanted variables, or -1.
  int64_t place_of_wanted(int64_t variable) const {
    const auto end = order_.begin() + kept_, at = std::find(order_.begin(), end, variable);
    return at == end ? -1 : at - order_.begin();
  }
  // Those of the wanted variables, [wanted, n, n].
  Tensor kept() { return torch::stable::narrow(grams_, 0, 0, kept_); }

 private:
  Tensor stack_of(const std::vector<Tensor>& variables, const Tensor& parameters,
                  const std::vector<int64_t>& kinds, int64_t from, int64_t to) const {
    const auto* parameter = static_cast<const double*>(parameters.const_data_ptr());
    std::vector<Tensor> data;
    std::vector<int64_t> data_kinds;
    const int64_t most = parameters.dim() == 2 ? parameters.size(1) : 1;
    Tensor data_parameters = empty_like_with(parameters, {to - from, most}, ScalarType::Double);
    for (int64_t k = from; k < to; ++k) {
      data.push_back(variables[order_[k]]);
      data_kinds.push_back(kinds[order_[k]]);
      std::copy_n(parameter + order_[k] * most, most,
                  static_cast<double*>(data_parameters.mutable_data_ptr()) + (k - from) * most);
    }
    return from < to ? gram_stack_cpu(data, data_parameters, data_kinds)
                     : empty_like_with(parameters, {0, n_, n_}, scalar_type_of<T>());
  }

  int64_t n_, kept_, first_ = 0;  // of the order, in grams_
  std::vector<int64_t> order_;
  Tensor grams_, others_;
};

}  // namespace bido
