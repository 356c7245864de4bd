// SPDX-License-Identifier: Apache-2.0
//
// One variable of a group: features with a kernel, integer labels, or a Gram matrix made elsewhere.
#pragma once

#include <vector>

#include "../common/kernel_tile.h"
#include "../common/stable.h"
#include "feature_rows.h"

namespace bido {

struct Block {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

template <typename T>
struct Variable {
  Tensor data;
  KernelKind kind;
  T parameter;  // gamma, or the scale of the labels
  double exact_parameter;
  double alpha = 1;  // of the rational quadratic kernel

  KernelParameters<T> parameters() const { return {parameter, static_cast<T>(alpha)}; }

  bool is_labels() const { return kind == KernelKind::labels; }
  bool is_gram() const { return kind == KernelKind::gram; }
  bool is_features() const { return !is_labels() && !is_gram(); }
};

template <typename T>
constexpr ScalarType scalar_type_of() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

// The dtype in which a group is computed: float64 if its features or Gram matrices are.
inline ScalarType group_dtype(const std::vector<Tensor>& variables, const std::vector<int64_t>& kinds) {
  for (size_t v = 0; v < variables.size(); ++v)
    if (static_cast<KernelKind>(kinds[v]) != KernelKind::labels)
      return accumulation_dtype(variables[v].scalar_type());
  return ScalarType::Float;
}

// Checks a group, and gives every variable dense columns.
template <typename T>
std::vector<Variable<T>> make_group(const char* op, const std::vector<Tensor>& variables,
                                    const Tensor& parameters, const std::vector<int64_t>& kinds) {
  STD_TORCH_CHECK(!variables.empty() && variables.size() == kinds.size() && parameters.dim() >= 1 &&
                      parameters.size(0) == static_cast<int64_t>(variables.size()),
                  op, ": variables, parameters and kinds must have one length");
  STD_TORCH_CHECK(parameters.scalar_type() == ScalarType::Double && parameters.is_contiguous(), op,
                  ": parameters must be contiguous float64");
  const double* parameter = static_cast<const double*>(parameters.const_data_ptr());
  const int64_t most = parameters.dim() == 2 ? parameters.size(1) : 1;  // parameters of a variable
  const int64_t n = variables[0].size(0);
  std::vector<Variable<T>> group;
  for (size_t v = 0; v < variables.size(); ++v) {
    STD_TORCH_CHECK(kinds[v] >= 0 && kinds[v] <= static_cast<int64_t>(KernelKind::gram), op,
                    ": unknown kind of variable");
    const Tensor& data = variables[v];
    const auto kind = static_cast<KernelKind>(kinds[v]);
    STD_TORCH_CHECK(data.dim() == (kind == KernelKind::labels ? 1 : 2) && data.size(0) == n && n >= 1, op,
                    ": variables must have the same rows, features two dimensions and labels one");
    if (kind == KernelKind::labels) {
      STD_TORCH_CHECK(data.scalar_type() == ScalarType::Long, op, ": labels must be int64");
    } else {
      STD_TORCH_CHECK(accumulation_dtype(data.scalar_type()) == scalar_type_of<T>(), op,
                      ": variables must accumulate in the same dtype");
      STD_TORCH_CHECK(data.size(1) >= 1, op, ": features need columns");
    }
    if (kind == KernelKind::gram)
      STD_TORCH_CHECK(data.size(1) == n && data.scalar_type() == scalar_type_of<T>(), op,
                      ": a Gram matrix must be (n, n), float32 or float64");
    const Tensor dense =
        kind == KernelKind::labels ? torch::stable::contiguous(data) : with_dense_columns(data);
    const double* own = parameter + static_cast<int64_t>(v) * most;
    STD_TORCH_CHECK(kind != KernelKind::rational_quadratic || most >= 2, op,
                    ": the rational quadratic kernel has two parameters");
    group.push_back({dense, kind, static_cast<T>(own[0]), own[0], most > 1 ? own[1] : 1});
  }
  return group;
}

}  // namespace bido
