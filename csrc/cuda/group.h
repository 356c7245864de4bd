// SPDX-License-Identifier: Apache-2.0
//
// A group on the host: checked variables, their features as kernels take them, and the centers.
#pragma once

#include <vector>

#include "features.cuh"

namespace bido {

// The features among the variables of a group; `tensors` keeps alive what they point to.
struct FeatureList {
  std::vector<Features> features;
  std::vector<int64_t> index;  // place in the group
  std::vector<Tensor> tensors;
  int64_t n = 0, width = 1;  // rows; parameters of a variable

  int64_t count() const { return static_cast<int64_t>(features.size()); }
  // Place among the features of variable `variable` of the group, or -1.
  int64_t find(int64_t variable) const;
};

bool is_features(int64_t kind);

// parameters [m] or [m, width].
int64_t parameters_per_variable(const Tensor& parameters);

// Checks a group, and makes the centers of its features, or of those among `centers_of` alone. float64 is
// refused.
FeatureList features_of(const char* op, const std::vector<Tensor>& variables, const Tensor& parameters,
                        const std::vector<int64_t>& kinds, bool tf32,
                        const std::vector<int64_t>* centers_of = nullptr);

// The features of a list at some places, in that order.
FeatureList some_of(const FeatureList& list, const std::vector<int64_t>& places);

// out (n, n) of a variable that is no features: the Gram matrix given, or the scale where labels agree.
void fill_given(const char* op, const Tensor& variable, const double* scale, Tensor out);

// out[slot] (n, n) of every feature variable, both halves; K itself for Gaussian kernels without `minus_one`.
void fill_grams(const char* op, const FeatureList& list, const Tensor& parameters, const Tensor& out,
                bool minus_one = true);

// |x_i - center|^2 of the operands as the products take them, float32 [n].
// NaN where float32 does not hold them.
Tensor squared_norms(const char* op, const Features& f, const Tensor& parameters, int64_t n);

// A part of a Gram matrix.
struct Panel {
  float* out;
  int64_t stride, n, row_begin, rows, column_begin, columns;
  bool minus_one;
};

void gram_panel(const char* op, const Features& f, const Tensor& norms, const Tensor& parameters,
                const Panel& panel);

// Rows row_begin .. of outs[k] = (A - diag(A 1)) x (A x for the linear kernel) from weights
// [variables, rows, n], one matrix of weights per feature of the list, by their order.
void weighted_products(const char* op, const Tensor& weights, const FeatureList& list,
                       const std::vector<Tensor>& outs, int64_t row_begin);

}  // namespace bido
