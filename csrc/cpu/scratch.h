// SPDX-License-Identifier: Apache-2.0
// Uninitialised, cache-line-aligned working memory.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "huge_pages.h"

namespace bido {

constexpr int64_t kSkew = 16;  // extra entries per row, so that rows do not meet in one cache set

struct FreeScratch {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Scratch = std::unique_ptr<T[], FreeScratch>;

template <typename T>
Scratch<T> make_scratch(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes > 0 ? bytes : 64);
  if (memory == nullptr) throw std::bad_alloc();
  advise_huge_pages(memory, bytes);
  return Scratch<T>(static_cast<T*>(memory));
}

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace bido
