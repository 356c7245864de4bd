// SPDX-License-Identifier: Apache-2.0
//
// One binary for every x86-64: functions marked BIDO_VECTORIZE are compiled for AVX-512, AVX2 and the
// baseline, and the loader picks once.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define BIDO_VECTORIZE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BIDO_VECTORIZE
#endif

namespace bido {

// Sums in a fixed order over eight lanes: vectorisable without reassociation, hence deterministic.
constexpr int kLanes = 8;

}  // namespace bido
