// SPDX-License-Identifier: Apache-2.0
//
// The one planner: from the sizes of a group and a budget of bytes to a regime, a tile and the bytes it will
// take. Pure arithmetic, asked by Python before anything is allocated (bido_ext._C.plan_group).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace bido {

// Bytes per row of a centered chunk of columns (inner_products.h).
constexpr int64_t kPlannedChunk = 2048, kPlannedWholeChunk = 4096;
constexpr int64_t kPlannedFewRows = 384;    // up to here every variable has some partial sums
constexpr int64_t kPlannedPanel = 256 + 8;  // rows of a panel of weights (panel_product.h)
constexpr int64_t kWholeUpTo = 512;         // up to here a Gram matrix is one tile
constexpr int64_t kDenseTile = 128;         // beyond: small enough that diagonal tiles cost little
constexpr int64_t kSmallestTile = 32;
constexpr int64_t kLargestTile = 512;  // beyond, tiles only cost cache

struct GroupPlan {
  std::string regime;  // "dense", "streaming" or "refused"
  int64_t tile;        // rows of a tile
  int64_t kept;        // tiles kept per variable; -1: all
  int64_t bytes;       // predicted beyond inputs and gradients
  int64_t dense_bytes;
  int64_t smallest_bytes;  // of the smallest streaming tile
};

inline int64_t dense_tile(int64_t n) { return n <= kWholeUpTo ? n : kDenseTile; }

// Columns of the widest variable, of all of them, and how many are features; width 0 stands for labels.
struct Widths {
  int64_t widest = 1, total = 0, features = 0, variables = 0;
  explicit Widths(const std::vector<int64_t>& dims) {
    for (int64_t d : dims) {
      widest = std::max(widest, d);
      total += d;
      features += d > 0;
      ++variables;
    }
  }
};

// Row sums, weights of the diagonal, shifts: float64 vectors of length n.
inline int64_t vector_bytes(int64_t n, const Widths& w) { return 8 * n * (2 * w.variables + 4); }

// Entries per row of a centered chunk: rows do not meet in one cache set.
inline int64_t chunk_width(const Widths& w, int64_t element, int64_t bytes) {
  return std::min(bytes / element, w.widest) + 16 + 8;
}

// One tile per variable, two of weights, two chunks, means and norms.
inline int64_t streaming_bytes(int64_t n, const Widths& w, int64_t element, int64_t tile) {
  const int64_t t = std::min(tile, n), width = chunk_width(w, element, kPlannedChunk);
  return element * ((w.variables + 2) * t * t + 2 * (t + 8) * (width + t) + w.total + w.features * n) +
         vector_bytes(n, w);
}

// Centered chunks and what is summed with them, of the whole matrix or of tiles; those of one thread.
inline int64_t chunk_bytes(int64_t n, const Widths& w, int64_t element) {
  if (n <= kPlannedFewRows) {
    const int64_t bytes = n <= 192 ? 2 * kPlannedChunk : kPlannedChunk, groups = n <= 192 ? 16 : 8;
    const int64_t sums = std::min(groups * w.features, w.total * element / bytes + w.features);
    return element * ((n + 8) * chunk_width(w, element, bytes) + sums * n * n);
  }
  if (n > 1024) return element * (1024 + 8 + kDenseTile + 8) * chunk_width(w, element, kPlannedChunk);
  const int64_t ahead =
      w.widest > kPlannedWholeChunk / element ? 2 : 1;  // the next is centered beside the products
  return element * ahead * (n + 8) * chunk_width(w, element, kPlannedWholeChunk);
}

// The tiles on or above the diagonal, and the larger of centered chunks and a panel of weights.
inline int64_t dense_bytes(int64_t n, const Widths& w, int64_t element) {
  const int64_t t = dense_tile(n), blocks = (n + t - 1) / t;
  const int64_t kept = w.features * (blocks * (blocks + 1) / 2) * t * t;
  const int64_t panel = std::min(kPlannedPanel, n + 8) * (n + 16);
  return element * (kept + w.widest) + std::max(chunk_bytes(n, w, element), element * panel) +
         vector_bytes(n, w);
}

// HSIC or CKA of the pairs of a group with their gradients.
inline GroupPlan plan_group(int64_t n, const std::vector<int64_t>& dims, int64_t element, int64_t budget) {
  const Widths w(dims);
  GroupPlan plan{"dense", dense_tile(n), -1, dense_bytes(n, w, element), 0, 0};
  plan.dense_bytes = plan.bytes;
  plan.smallest_bytes = streaming_bytes(n, w, element, kSmallestTile);
  if (plan.dense_bytes <= budget) return plan;
  plan.regime = "refused";
  for (int64_t tile = kLargestTile; tile >= kSmallestTile; tile /= 2) {
    const int64_t bytes = streaming_bytes(n, w, element, tile);
    if (bytes > budget) continue;
    plan.regime = "streaming";
    plan.tile = std::min(tile, n);
    // What the workspace leaves holds tiles that need not be made twice.
    const int64_t blocks = (n + plan.tile - 1) / plan.tile,
                  one = element * w.features * plan.tile * plan.tile;
    plan.kept = std::min((budget - bytes) / one, blocks * (blocks + 1) / 2 - 1);
    plan.bytes = bytes + plan.kept * one;
    break;
  }
  return plan;
}

constexpr int64_t kWeightRows = 4096;    // of the panels of weights in the dense regime of a GPU
constexpr int64_t kLargestPanel = 4096;  // rows; beyond, longer panels save nothing
constexpr int64_t kSmallestPanel = 64;
constexpr int64_t kRowsPerPartial = 8;  // rows of one partial product sum

// Products of a launch whose columns are shared among blocks live beside the Gram matrices
// (csrc/cuda/gram_products.cu); how many matrices of them there are at most, on a GPU of up to
// kMostMultiprocessors. Each variable has one share, and those beyond give every multiprocessor two blocks.
constexpr int64_t kMostMultiprocessors = 192, kVariablesPerLaunch = 8, kColumnsOfAShare = 256;
inline int64_t partial_products(int64_t n, const Widths& w) {
  const int64_t tiles = (n + 63) / 64, pairs = tiles * (tiles + 1) / 2, blocks = 2 * kMostMultiprocessors;
  if (pairs >= blocks) return 0;
  return std::min(std::min(w.features, kVariablesPerLaunch) + blocks / pairs,
                  w.features + w.total / kColumnsOfAShare);
}

// On a GPU: whole Gram matrices and beside them a panel of weights or products that make them, or panels of
// all features and of weights. Two pairs per feature, as in BiDO.
inline int64_t panel_bytes(int64_t n, const Widths& w, int64_t element, int64_t rows, bool dense) {
  const int64_t kept = w.features * (dense ? n : rows), weights = std::min(n, dense ? kWeightRows : rows);
  const int64_t weighted = (dense && n <= 1024 ? w.features : 1) * weights;
  const int64_t beside = dense ? std::max(weighted, partial_products(n, w) * n) : weighted;
  return element * (n * (kept + beside + w.features) + w.total) +
         8 * (n * w.variables + 2 * w.features * (n / kRowsPerPartial + rows));
}

// HSIC or CKA of the pairs of a group with their gradients, on a GPU; `tile` is the rows of a panel.
inline GroupPlan plan_panels(int64_t n, const std::vector<int64_t>& dims, int64_t element, int64_t budget) {
  const Widths w(dims);
  GroupPlan plan{"dense", n, -1, panel_bytes(n, w, element, n, true), 0, 0};
  plan.dense_bytes = plan.bytes;
  plan.smallest_bytes = panel_bytes(n, w, element, std::min(kSmallestPanel, n), false);
  if (plan.dense_bytes <= budget) return plan;
  plan.regime = "refused";
  for (int64_t rows = kLargestPanel; rows >= kSmallestPanel; rows /= 2) {
    const int64_t bytes = panel_bytes(n, w, element, std::min(rows, n), false);
    if (rows >= n || bytes > budget) continue;
    plan.regime = "streaming";
    plan.tile = rows;
    plan.kept = 0;
    plan.bytes = bytes;
    break;
  }
  return plan;
}

// nhsic and coco, which keep whole matrices: the Gram matrix of every feature variable; for nhsic its inverse
// and `factors` of partners, with four matrices of work, in the dtype of the algebra; for coco `factors`
// gradients in the dtype of the Gram matrices, with six of work.
inline int64_t algebra_bytes(int64_t n, const std::vector<int64_t>& dims, int64_t element, int64_t algebra,
                             bool inverses, int64_t factors) {
  const Widths w(dims);
  const int64_t kept = w.features * (element + (inverses ? algebra : 0)) +
                       factors * (inverses ? algebra : element) + (inverses ? 4 : 6) * algebra;
  return n * n * kept + dense_bytes(n, Widths({w.widest}), element);
}

}  // namespace bido
