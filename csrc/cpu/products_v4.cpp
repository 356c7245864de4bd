// SPDX-License-Identifier: Apache-2.0
// The products for x86-64-v4 (512-bit vectors); compiled with -march=x86-64-v4.
#include "products_kernels.h"

namespace bido {

extern const ProductKernels<float> kFloatProducts_v4 = make_kernels<float, 64, 5, 8, 3>("x86-64-v4");
extern const ProductKernels<double> kDoubleProducts_v4 = make_kernels<double, 64, 5, 8, 2>("x86-64-v4");

}  // namespace bido
