// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../common/stable.h"

namespace bido {

// The Gram matrices up to centering of a group of variables, [m, n, n].
Tensor gram_stack_cpu(std::vector<Tensor> variables, Tensor parameters, std::vector<int64_t> kinds);

}  // namespace bido
