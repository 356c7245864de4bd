// SPDX-License-Identifier: Apache-2.0
//
// From inner products of centered rows to Gram entries, in place.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/kernel_tile.h"
#include "../common/resolution.h"
#include "inner_products.h"
#include "mirror.h"
#include "vectorize.h"

namespace bido {

template <typename T, KernelKind kKind>
inline __attribute__((always_inline)) void gram_row_of(bool minus_one, T* row, T norm_i, const T* norms,
                                                       KernelParameters<T> p, int64_t count) {
  if (minus_one) {
    for (int64_t j = 0; j < count; ++j) row[j] = gram_entry(kKind, norm_i, norms[j], row[j], p);
  } else {
    for (int64_t j = 0; j < count; ++j)
      row[j] = kernel_of_distance(kKind, squared_distance(norm_i, norms[j], row[j]), p);
  }
}

template <typename T>
BIDO_VECTORIZE void gram_row(KernelKind kind, bool minus_one, T* row, T norm_i, const T* norms,
                             KernelParameters<T> p, int64_t count) {
  switch (kind) {
    case KernelKind::gaussian:
      return gram_row_of<T, KernelKind::gaussian>(minus_one, row, norm_i, norms, p, count);
    case KernelKind::inverse_multiquadric:
      return gram_row_of<T, KernelKind::inverse_multiquadric>(minus_one, row, norm_i, norms, p, count);
    case KernelKind::laplacian:
      return gram_row_of<T, KernelKind::laplacian>(minus_one, row, norm_i, norms, p, count);
    case KernelKind::energy:
      return gram_row_of<T, KernelKind::energy>(true, row, norm_i, norms, p, count);
    case KernelKind::rational_quadratic:
      return gram_row_of<T, KernelKind::rational_quadratic>(minus_one, row, norm_i, norms, p, count);
    default:
      return;
  }
}

// Entries of rows I and columns J of v; where they are the same rows only those on or above the diagonal are
// read, and the others are mirrored. `minus_one`: K - 1 instead of K, for the Gaussian kernel. Distances
// of near pairs are made again from differences where it matters.
template <typename T>
void finish_tile(const Variable<T>& v, bool minus_one, const T* norms, Block I, Block J, int64_t row_begin,
                 int64_t row_end, T* tile, int64_t stride) {
  const KernelKind kind = v.kind;
  const KernelParameters<T> p = v.parameters();
  const bool looks = kind != KernelKind::linear && (std::is_same_v<T, double> || !is_smooth(kind));
  const bool diagonal = I.begin == J.begin;
  std::vector<int64_t> near;
  for (int64_t i = row_begin; i < row_end; ++i) {
    T* row = tile + i * stride;
    const int64_t first = diagonal ? i + 1 : 0;
    if (looks) {
      near.clear();
      const T norm = norms[I.begin + i];
      for (int64_t j = first; j < J.size(); ++j) {
        const T both = norm + norms[J.begin + j];
        if (both - 2 * row[j] < kNear<T> * both) near.push_back(j);
      }
    }
    gram_row<T>(kind, minus_one, row + first, norms[I.begin + i], norms + J.begin + first, p,
                J.size() - first);
    if (looks && !near.empty()) {
      for (int64_t j : near) {
        const T distance = exact_distance<T>(v.data, I.begin + i, J.begin + j);
        if (std::is_same_v<T, float> && distance > 0 &&
            distance < kNearest * (norms[I.begin + i] + norms[J.begin + j])) {
          row[j] = std::numeric_limits<T>::quiet_NaN();  // not resolved
          continue;
        }
        row[j] = minus_one || kind == KernelKind::energy ? entry_of_distance(kind, distance, p)
                                                         : kernel_of_distance(kind, distance, p);
      }
    }
    if (diagonal && kind != KernelKind::linear)
      row[i] = diagonal_minus_one(norms[I.begin + i]) + T(minus_one || kind == KernelKind::energy ? 0 : 1);
  }
}

// Kept tiles of one variable: those on or above the diagonal, row after row, [count][tile][tile].
template <typename T>
struct TileStore {
  T* data;
  int64_t n, tile;

  int64_t blocks() const { return (n + tile - 1) / tile; }
  int64_t count() const { return blocks() * (blocks() + 1) / 2; }
  T* at(int64_t row, int64_t column) const {
    return data + (row * blocks() - row * (row - 1) / 2 + column - row) * tile * tile;
  }
  Block rows(int64_t block) const { return {block * tile, std::min(n, (block + 1) * tile)}; }
};

// Fills the stores of all features of a group. One tile per variable is a whole Gram matrix. Returns the
// squared norms of the centered rows of each, [n].
// `choose`(variable, norms, n): whether its entries are K - 1, and not K.
template <typename T, typename MinusOne>
std::vector<Scratch<T>> fill_stores(const std::vector<Variable<T>>& features,
                                    const std::vector<TileStore<T>>& stores, const MinusOne& choose) {
  std::vector<Scratch<T>> all_norms;
  if (features.empty()) return all_norms;
  const int64_t n = stores[0].n, tile = stores[0].tile, blocks = stores[0].blocks();
  if (n <= kSmallRows && blocks == 1) {
    std::vector<Tensor> data;
    std::vector<T*> outs;
    for (size_t v = 0; v < features.size(); ++v) {
      data.push_back(features[v].data);
      outs.push_back(stores[v].data);
    }
    inner_products_of_few_rows<T>(data, outs);
  } else {
    for (size_t v = 0; v < features.size(); ++v) {
      // One tile is still made in smaller ones, for the threads and the caches.
      const int64_t part = blocks > 1 ? tile : n <= 512 ? 40 : 80;
      const auto& store = stores[v];
      inner_products_of_tiles<T>(
          features[v].data, part, blocks > 1 ? tile : n, [&](int64_t row, int64_t column) {
            return blocks > 1 ? store.at(row, column) : store.data + row * part * n + column * part;
          });
    }
  }
  for (size_t v = 0; v < features.size(); ++v) {
    const auto& store = stores[v];
    all_norms.push_back(make_scratch<T>(n));
    const Scratch<T>& norms = all_norms.back();
    for (int64_t b = 0; b < blocks; ++b)  // squared norms are the diagonal: the same rounding
      for (int64_t i = store.rows(b).begin; i < store.rows(b).end; ++i)
        norms[i] = store.at(b, b)[(i - b * tile) * (tile + 1)];
    const bool minus_one = choose(features[v], norms.get(), n);
    if (blocks == 1) {
      torch::stable::parallel_for(0, n, 64, [&](int64_t first, int64_t last) {
        finish_tile<T>(features[v], minus_one, norms.get(), {0, n}, {0, n}, first, last, store.data, n);
      });
      mirror_upper<T>(store.data, n, n);
      continue;
    }
    torch::stable::parallel_for(0, store.count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        int64_t row = 0;
        while ((row + 1) * blocks - (row + 1) * row / 2 <= t) ++row;
        const int64_t column = t - (row * blocks - row * (row - 1) / 2) + row;
        const Block I = store.rows(row), J = store.rows(column);
        T* entries = store.data + t * tile * tile;
        finish_tile<T>(features[v], minus_one, norms.get(), I, J, 0, I.size(), entries, tile);
        if (row == column) mirror_upper<T>(entries, I.size(), tile);
      }
    });
  }
  return all_norms;
}

}  // namespace bido
