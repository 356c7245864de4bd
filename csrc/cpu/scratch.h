// SPDX-License-Identifier: Apache-2.0
// Uninitialised, cache-line-aligned working memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

#include "huge_pages.h"

namespace bido {

constexpr int64_t kSkew = 16;  // extra entries per row, so that rows do not meet in one cache set

// Large blocks, on huge pages of their own, wait here for the next call instead of going back to the system:
// their pages are paid for once, and rows of buffers on small pages meet in cache sets by chance. Nobody
// waits for the lock, which a process forked at the wrong moment would find locked for ever.
class KeptBlocks {
 public:
  static constexpr size_t kMost = size_t{64} << 20;
#ifdef __SANITIZE_ADDRESS__  // which watches the ends of blocks as they are asked for
  static constexpr size_t kSmallest = kMost + 1;
#else
  static constexpr size_t kSmallest = 2 * kHugePage;
#endif

  static KeptBlocks& instance() {
    static auto* blocks = new KeptBlocks;  // never destroyed: a thread may outlive static objects
    return *blocks;
  }
  static bool keeps(size_t bytes) { return bytes >= kSmallest && bytes <= kMost; }
  static size_t rounded(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

  void* take(size_t bytes) {
    if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock.owns_lock()) {
      for (size_t k = count_; k-- > 0;) {
        if (blocks_[k].bytes != bytes) continue;
        void* memory = blocks_[k].memory;
        remove(k);
        return memory;
      }
      make_room(bytes);
    }
    void* memory = nullptr;  // whole huge pages, and for the rest small ones
    if (posix_memalign(&memory, kHugePage, bytes) != 0) return nullptr;
    advise_huge_pages(memory, bytes);
    return memory;
  }
  void give(void* memory, size_t bytes) noexcept {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return std::free(memory);
    make_room(bytes);
    blocks_[count_++] = {memory, bytes};
    kept_ += bytes;
  }

 private:
  static constexpr size_t kPage = 4096;
  struct Block {
    void* memory;
    size_t bytes;
  };
  void remove(size_t k) {
    kept_ -= blocks_[k].bytes;
    std::copy(blocks_.begin() + static_cast<std::ptrdiff_t>(k) + 1,
              blocks_.begin() + static_cast<std::ptrdiff_t>(count_),
              blocks_.begin() + static_cast<std::ptrdiff_t>(k));
    --count_;
  }
  void make_room(size_t bytes) {  // the oldest go first
    while (count_ > 0 && kept_ + bytes > kMost) {
      std::free(blocks_[0].memory);
      remove(0);
    }
  }

  std::mutex mutex_;
  std::array<Block, kMost / (2 * kHugePage)> blocks_;
  size_t count_ = 0, kept_ = 0;
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
  const size_t kept = KeptBlocks::keeps(bytes) ? KeptBlocks::rounded(bytes) : 0;
  void* memory =
      kept > 0 ? KeptBlocks::instance().take(kept) : std::aligned_alloc(64, bytes > 0 ? bytes : 64);
  if (memory == nullptr) throw std::bad_alloc();
  if (kept == 0) advise_huge_pages(memory, bytes);
  return Scratch<T>(static_cast<T*>(memory), FreeScratch{kept});
}

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace bido
