// SPDX-License-Identifier: Apache-2.0
//
// A group of hsic on the host: which matrices are made, which are given, and where their entries lie.
#pragma once

#include <vector>

#include "group.h"
#include "hsic_entries.cuh"

namespace bido {

struct HsicGroup {
  FeatureList list;
  std::vector<int> slots;      // of each variable in the stack; -1 for the labels that are compared in place
  std::vector<int64_t> extra;  // variables with a matrix after those of the features: given, or second labels
  Tensor labels, parameters;
  int64_t label_index = -1;

  int64_t variables() const { return static_cast<int64_t>(slots.size()); }
  bool features_only() const { return extra.empty(); }
  Entries entries(const Tensor& panels, int64_t row_begin, int64_t column_begin) const;
  // The features' matrices with the extra ones after them.
  Tensor with_extra(const char* op, const Tensor& grams, const std::vector<Tensor>& all) const;
};

HsicGroup hsic_group(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                     const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                     const std::vector<int64_t>& second, const std::vector<int64_t>& wanted, bool tf32,
                     const std::vector<int64_t>* centers_of = nullptr);

}  // namespace bido
