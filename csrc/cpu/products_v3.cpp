// SPDX-License-Identifier: Apache-2.0
// The products for x86-64-v3 (256-bit vectors); compiled with -march=x86-64-v3.
#include "products_kernels.h"

namespace bido {

extern const ProductKernels<float> kFloatProducts_v3 = make_kernels<float, 32, 3, 4, 3>("x86-64-v3");
extern const ProductKernels<double> kDoubleProducts_v3 = make_kernels<double, 32, 3, 4, 3>("x86-64-v3");

}  // namespace bido
