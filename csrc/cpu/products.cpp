// SPDX-License-Identifier: Apache-2.0
// Which products this machine runs.
#include "products.h"

#include <torch/headeronly/util/Exception.h>

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

#ifdef BIDO_X86_64_LEVELS
constexpr const char* kLevels[] = {"baseline", "x86-64-v3", "x86-64-v4"};
#endif

// 2, 3 or 4: the level of x86-64 to use.
int machine_level() {
  int level = 2;
#ifdef BIDO_X86_64_LEVELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = 3;
  if (level == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    level = 4;
  if (const char* forced = std::getenv("BIDO_EXT_CPU_ISA")) {
    int wanted = 0;
    for (int l = 2; l <= 4; ++l)
      if (std::strcmp(forced, kLevels[l - 2]) == 0) wanted = l;
    STD_TORCH_CHECK(wanted > 0, "BIDO_EXT_CPU_ISA=", forced, " is not one of baseline, x86-64-v3, x86-64-v4");
    STD_TORCH_CHECK(wanted <= level, "BIDO_EXT_CPU_ISA=", forced, ": this machine has ", kLevels[level - 2]);
    level = wanted;
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
