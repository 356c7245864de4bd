// SPDX-License-Identifier: Apache-2.0
// Which products this machine runs.
#include "products.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace bido {

extern const ProductKernels<float> kFloatProducts_baseline;
extern const ProductKernels<double> kDoubleProducts_baseline;
#ifdef BIDO_X86_64_LEVELS
extern const ProductKernels<float> kFloatProducts_v3, kFloatProducts_v4;
extern const ProductKernels<double> kDoubleProducts_v3, kDoubleProducts_v4;
#endif

namespace {

// 2, 3 or 4: the level of x86-64 to use; a forced level the machine lacks is ignored.
int machine_level() {
  int level = 2;
#ifdef BIDO_X86_64_LEVELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = 3;
  if (level == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    level = 4;
  if (const char* forced = std::getenv("BIDO_EXT_CPU_ISA")) {
    if (std::strcmp(forced, "baseline") == 0) level = 2;
    if (std::strcmp(forced, "x86-64-v3") == 0 && level > 3) level = 3;
  }
#endif
  return level;
}

int level() {
  static const int chosen = machine_level();
  return chosen;
}

}  // namespace

template <typename T>
const ProductKernels<T>& product_kernels() {
  constexpr bool is_float = std::is_same_v<T, float>;
#ifdef BIDO_X86_64_LEVELS
  if constexpr (is_float) {
    if (level() >= 3) return level() == 4 ? kFloatProducts_v4 : kFloatProducts_v3;
  } else {
    if (level() >= 3) return level() == 4 ? kDoubleProducts_v4 : kDoubleProducts_v3;
  }
#endif
  if constexpr (is_float) {
    return kFloatProducts_baseline;
  } else {
    return kDoubleProducts_baseline;
  }
}

template const ProductKernels<float>& product_kernels<float>();
template const ProductKernels<double>& product_kernels<double>();

}  // namespace bido
