// SPDX-License-Identifier: Apache-2.0
//
// Weights of the feature gradients from gradients of Gram matrices.
#pragma once

#include <vector>

#include "device.cuh"

namespace bido {

// A of grad_x = (A - diag(A 1)) x for each matrix of a contiguous stack [m, n, n] and its gradient; H A H for
// the linear kernel, whose features are centered in the forward. `is_k`: the stack holds K and not K - 1,
// which has not the digits of small K: NaN where that matters.
Tensor gram_weights(const char* op, const Tensor& grad, const Tensor& stack, const Tensor& parameters,
                    const std::vector<int64_t>& kinds, bool is_k);

// Of the gradients of features in their own dtype, where the kernels have computed them in another.
std::vector<Tensor> in_dtype_of(const std::vector<Tensor>& grads, const std::vector<Tensor>& like);

}  // namespace bido
