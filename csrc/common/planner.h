// SPDX-License-Identifier: Apache-2.0
//
// The one planner: from sizes and a budget of bytes to a regime, a tile and the bytes it will take. Pure
// arithmetic, asked by Python before anything is allocated (bido_ext._C.plan_pair).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace bido {

constexpr int64_t kPlannedChunk = 1024;  // columns of a centered chunk (gram_tile.h)
constexpr int64_t kSmallestTile = 32;
constexpr int64_t kLargestTile = 1024;  // beyond, tiles only cost cache

struct PairPlan {
  std::string regime;  // "dense", "streaming" or "refused"
  int64_t tile;        // rows of a tile
  int64_t bytes;       // predicted beyond inputs and gradients
  int64_t dense_bytes;
  int64_t smallest_bytes;  // of the smallest streaming tile
};

// Two tiles, two chunks per variable, and about ten float64 vectors of length n.
inline int64_t streaming_bytes(int64_t n, int64_t dx, int64_t dy, int64_t element, int64_t tile) {
  const int64_t t = std::min(tile, n);
  const int64_t chunks = 2 * t * (std::min(kPlannedChunk, dx) + std::min(kPlannedChunk, dy));
  return element * (2 * t * t + chunks + dx + dy) + 10 * 8 * n;
}

// The dense regime keeps the tiles on and above the diagonal: about n/16 rows each, so that the diagonal
// tiles, which are kept whole, cost little.
inline int64_t dense_tile(int64_t n) { return std::clamp<int64_t>((n / 16 + 31) / 32 * 32, 64, 512); }

inline int64_t kept_bytes(int64_t n, int64_t dy, int64_t element, int64_t tile) {
  const int64_t t = std::min(tile, n), blocks = (n + t - 1) / t;
  return element * (dy > 0 ? 2 : 1) * (blocks * (blocks + 1) / 2) * t * t;
}

// Biased HSIC or CKA of one pair with its gradient. dy = 0: labels, whose tiles are made again.
inline PairPlan plan_pair(int64_t n, int64_t dx, int64_t dy, int64_t element, int64_t budget) {
  PairPlan plan{"dense", dense_tile(n), 0, 0, 0};
  plan.bytes = streaming_bytes(n, dx, dy, element, plan.tile) + kept_bytes(n, dy, element, plan.tile);
  plan.dense_bytes = plan.bytes;
  plan.smallest_bytes = streaming_bytes(n, dx, dy, element, kSmallestTile);
  if (plan.dense_bytes <= budget) return plan;
  plan.regime = "refused";
  for (int64_t tile = kLargestTile; tile >= kSmallestTile; tile /= 2) {
    const int64_t bytes = streaming_bytes(n, dx, dy, element, tile);
    if (bytes > budget) continue;
    plan.regime = "streaming";
    plan.tile = std::min(tile, n);
    plan.bytes = bytes;
    break;
  }
  return plan;
}

}  // namespace bido
