// SPDX-License-Identifier: Apache-2.0
// Uninitialised, cache-line-aligned working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "huge_pages.h"

namespace bido {

constexpr int64_t kSkew = 16;  // extra entries per row, so that rows do not meet in one cache set

// Large blocks, on huge pages of their own, wait here for the next call instead of going back to the system:
// their pages are paid for once, and rows of buffers on small pages meet in cache sets by chance.
class KeptBlocks {
 public:
#ifdef __SANITIZE_ADDRESS__  // which watches the ends of blocks as they are asked for
  static constexpr size_t kSmallest = ~size_t{0};
#else
  static constexpr size_t kSmallest = size_t{1} << 20;
#endif
  static constexpr size_t kMost = size_t{64} << 20;

  static KeptBlocks& instance() {
    static auto* blocks = new KeptBlocks;  // never destroyed: a thread may outlive static objects
    return *blocks;
  }
  static size_t rounded(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

  void* take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (size_t k = blocks_.size(); k-- > 0;) {
        if (blocks_[k].bytes != bytes) continue;
        void* memory = blocks_[k].memory;
        blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(k));
        kept_ -= bytes;
        return memory;
      }
    }
    void* memory = std::aligned_alloc(kHugePage, bytes);
    if (memory != nullptr) advise_huge_pages(memory, bytes);
    return memory;
  }
  void give(void* memory, size_t bytes) {
    std::vector<Block> freed;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      blocks_.push_back({memory, bytes});
      kept_ += bytes;
      while (kept_ > kMost) {  // the oldest first
        freed.push_back(blocks_.front());
        kept_ -= blocks_.front().bytes;
        blocks_.erase(blocks_.begin());
      }
    }
    for (const Block& old : freed) std::free(old.memory);
  }

 private:
  struct Block {
    void* memory;
    size_t bytes;
  };
  std::mutex mutex_;
  std::vector<Block> blocks_;
  size_t kept_ = 0;
};

struct FreeScratch {
  size_t kept_bytes = 0;  // of a block that is kept
  void operator()(void* memory) const {
    kept_bytes > 0 ? KeptBlocks::instance().give(memory, kept_bytes) : std::free(memory);
  }
};

template <typename T>
using Scratch = std::unique_ptr<T[], FreeScratch>;

template <typename T>
Scratch<T> make_scratch(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  const size_t kept = bytes >= KeptBlocks::kSmallest ? KeptBlocks::rounded(bytes) : 0;
  void* memory =
      kept > 0 ? KeptBlocks::instance().take(kept) : std::aligned_alloc(64, bytes > 0 ? bytes : 64);
  if (memory == nullptr) throw std::bad_alloc();
  return Scratch<T>(static_cast<T*>(memory), FreeScratch{kept});
}

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace bido
