// SPDX-License-Identifier: Apache-2.0
//
// gram_stack:  the Gram matrices up to centering of a group of variables over the same samples, [m, n, n].
//
// One call for the inputs, the hidden layers and the labels of a step. Few rows: the columns of all variables
// are shared among the threads at once. The backward returns one gradient per variable that needs one.
#include <vector>

#include "gram.h"
#include "gram_stack.h"
#include "huge_pages.h"
#include "resolution.h"
#include "weights.h"

namespace bido {
namespace {

template <typename T>
void fill_labels(const Variable<T>& v, T* out, int64_t n) {
  const int64_t* y = static_cast<const int64_t*>(v.data.const_data_ptr());
  torch::stable::parallel_for(0, n, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < n; ++j) out[i * n + j] = y[i] == y[j] ? v.parameter : T(0);
  });
}

template <typename T>
bool all_minus_one(const Variable<T>&, const T*, int64_t) {
  return true;
}

template <typename T>
Tensor forward(const std::vector<Tensor>& variables, const Tensor& parameters,
               const std::vector<int64_t>& kinds) {
  const auto group = make_group<T>("gram_stack", variables, parameters, kinds);
  const int64_t n = variables[0].size(0), m = static_cast<int64_t>(group.size());
  Tensor stack = empty_large(variables[0], {m, n, n}, scalar_type_of<T>());
  T* entries = static_cast<T*>(stack.mutable_data_ptr());
  std::vector<Variable<T>> features;
  std::vector<TileStore<T>> stores;
  for (const auto& v : group) {
    if (v.is_features()) {
      features.push_back(v);
      stores.push_back({entries, n, n});
    } else if (v.is_labels()) {
      fill_labels<T>(v, entries, n);
    } else {
      const T* gram = static_cast<const T*>(v.data.const_data_ptr());
      for (int64_t i = 0; i < n; ++i)
        std::copy(gram + i * v.data.stride(0), gram + i * v.data.stride(0) + n, entries + i * n);
    }
    entries += n * n;
  }
  mark_unresolved<T>(features, stores, fill_stores<T>(features, stores, all_minus_one<T>));
  return stack;
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad, const Tensor& stack, const std::vector<Tensor>& variables,
                             const Tensor& parameters, const std::vector<int64_t>& kinds) {
  const auto group = make_group<T>("gram_stack_backward", variables, parameters, kinds);
  const int64_t n = variables[0].size(0);
  const T* g = static_cast<const T*>(grad.const_data_ptr());
  const T* gram = static_cast<const T*>(stack.const_data_ptr());
  std::vector<Tensor> grads;
  for (size_t v = 0; v < group.size(); ++v) {
    STD_TORCH_CHECK(group[v].is_features(), "gram_stack_backward: only features have a gradient");
    grads.push_back(gradient_of_features<T>(group[v], false, g + v * n * n, gram + v * n * n));
  }
  return grads;
}

}  // namespace

Tensor gram_stack_cpu(std::vector<Tensor> variables, Tensor parameters, std::vector<int64_t> kinds) {
  return group_dtype(variables, kinds) == ScalarType::Double ? forward<double>(variables, parameters, kinds)
                                                             : forward<float>(variables, parameters, kinds);
}

// `grad` and `stack` are those of the given variables, [m, n, n].
std::vector<Tensor> gram_stack_backward_cpu(Tensor grad, Tensor stack, std::vector<Tensor> variables,
                                            Tensor parameters, std::vector<int64_t> kinds) {
  const ScalarType dtype = group_dtype(variables, kinds);
  STD_TORCH_CHECK(grad.scalar_type() == dtype && stack.scalar_type() == dtype && grad.dim() == 3 &&
                      stack.dim() == 3 && grad.size(0) == static_cast<int64_t>(variables.size()) &&
                      stack.size(0) == grad.size(0) && grad.size(1) == variables[0].size(0) &&
                      grad.size(2) == grad.size(1) && stack.size(1) == grad.size(1) &&
                      stack.size(2) == grad.size(1),
                  "gram_stack_backward: grad and stack must be (m, n, n) in the dtype of the group");
  grad = torch::stable::contiguous(grad);
  stack = torch::stable::contiguous(stack);
  return dtype == ScalarType::Double ? backward<double>(grad, stack, variables, parameters, kinds)
                                     : backward<float>(grad, stack, variables, parameters, kinds);
}

}  // namespace bido

// bido_ext/serving/on_cpu.py calls these: what float32 does not resolve is asked for again in float64.
STABLE_TORCH_LIBRARY_FRAGMENT(bido_cpu, m) {
  m.def("gram_stack(Tensor[] variables, Tensor parameters, int[] kinds) -> Tensor");
  m.def(
      "gram_stack_backward(Tensor grad, Tensor stack, Tensor[] variables, Tensor parameters, int[] kinds)"
      " -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) {
  m.impl("gram_stack", TORCH_BOX(&bido::gram_stack_cpu));
  m.impl("gram_stack_backward", TORCH_BOX(&bido::gram_stack_backward_cpu));
}
