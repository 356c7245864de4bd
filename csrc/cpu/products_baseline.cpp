// SPDX-License-Identifier: Apache-2.0
// The products for any machine (128-bit vectors).
#include "products_kernels.h"

namespace bido {

extern const ProductKernels<float> kFloatProducts_baseline = make_kernels<float, 16, 3, 4, 3>("baseline");
extern const ProductKernels<double> kDoubleProducts_baseline = make_kernels<double, 16, 3, 4, 3>("baseline");

}  // namespace bido
