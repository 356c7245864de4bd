// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "hsic_group.h"

namespace bido {
HsicGroup hsic_group(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                     const std::vector<int64_t>& kinds, const std::vector<int64_t>& first,
                     const std::vector<int64_t>& second, const std::vector<int64_t>& wanted, bool tf32,
                     const std::vector<int64_t>* centers_of) {
  const auto count = static_cast<int64_t>(kinds.size());
  STD_TORCH_CHECK(count <= kMostVariables && first.size() == second.size() && first.size() <= kMostPairs, op,
                  ": at most ", kMostVariables, " variables and ", kMostPairs, " pairs");
  for (size_t p = 0; p < first.size(); ++p)
    STD_TORCH_CHECK(first[p] >= 0 && first[p] < count && second[p] >= 0 && second[p] < count, op,
                    ": a pair names a variable that is not there");
  for (size_t k = 0; k < wanted.size(); ++k)  // hence at most kMostVariables
    STD_TORCH_CHECK(wanted[k] >= 0 && wanted[k] < count &&
                        std::find(wanted.begin(), wanted.begin() + k, wanted[k]) == wanted.begin() + k,
                    op, ": a gradient is wanted twice, or of a variable that is not there");
  HsicGroup g{
      features_of(op, variables, parameters, kinds, tf32, centers_of), {}, {}, parameters, parameters, -1};
  int next = static_cast<int>(g.list.count());
  for (int64_t v = 0; v < count; ++v) {
    if (is_features(kinds[v])) {
      g.slots.push_back(static_cast<int>(g.list.find(v)));
    } else if (kinds[v] == static_cast<int64_t>(KernelKind::labels) && g.label_index < 0) {
      g.label_index = v;
      g.labels = torch::stable::contiguous(variables[v]);
      g.slots.push_back(-1);
    } else {
      g.extra.push_back(v);
      g.slots.push_back(next++);
    }
  }
  return g;
}

Entries HsicGroup::entries(const Tensor& panels, int64_t row_begin, int64_t column_begin) const {
  const double* const scales = static_cast<const double*>(parameters.const_data_ptr());
  return {static_cast<const float*>(panels.const_data_ptr()),
          panels.stride(0),
          panels.stride(1),
          label_index < 0 ? nullptr : static_cast<const int64_t*>(labels.const_data_ptr()),
          label_index < 0 ? nullptr : scales + label_index * list.width,
          list.n,
          row_begin,
          panels.size(1),
          column_begin,
          panels.size(2)};
}

Tensor HsicGroup::with_extra(const char* op, const Tensor& grams, const std::vector<Tensor>& all) const {
  if (extra.empty()) return grams;
  const int64_t n = list.n, made = list.count();
  Tensor stack = empty_like_with(grams, {made + static_cast<int64_t>(extra.size()), n, n}, ScalarType::Float);
  if (made > 0) {
    Tensor own = torch::stable::narrow(stack, 0, 0, made);
    torch::stable::copy_(own, grams);
  }
  for (size_t k = 0; k < extra.size(); ++k) {
    fill_given(op, all[extra[k]],
               static_cast<const double*>(parameters.const_data_ptr()) + extra[k] * list.width,
               torch::stable::select(stack, 0, made + static_cast<int64_t>(k)));
  }
  return stack;
}

}  // namespace bido
