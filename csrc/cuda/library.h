// SPDX-License-Identifier: Apache-2.0
//
// Where the kernels register: a namespace of their own, since which implementation serves bido_ext::<op> is
// chosen in Python (bido_ext/serving/choose.py). In the emulator they are functions of CPU tensors.
#pragma once

#include "../common/stable.h"

#ifdef BIDO_EMULATED
#define BIDO_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY(bido_cuda_emulated, m)
#define BIDO_CUDA_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(bido_cuda_emulated, CPU, m)
#else
#define BIDO_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY(bido_cuda, m)
#define BIDO_CUDA_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(bido_cuda, CUDA, m)
#endif
