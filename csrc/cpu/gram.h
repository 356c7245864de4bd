// SPDX-License-Identifier: Apache-2.0
//
// From inner products of centered rows to Gram entries, in place.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../common/kernel_tile.h"
#include "inner_products.h"
#include "mirror.h"
#include "vectorize.h"

namespace bido {

template <typename T>
BIDO_VECTORIZE void gram_row(KernelKind kind, bool minus_one, T* row, T norm_i, const T* norms, T gamma,
                             int64_t count) {
  if (kind == KernelKind::gaussian && minus_one) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = gram_entry(KernelKind::gaussian, norm_i, norms[j], row[j], gamma);
  } else if (kind == KernelKind::gaussian) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = exp_nonpositive(-gamma * squared_distance(norm_i, norms[j], row[j]));
  } else if (kind == KernelKind::inverse_multiquadric && !minus_one) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = T(1) / std::sqrt(T(1) + squared_distance(norm_i, norms[j], row[j]));
  } else if (kind == KernelKind::inverse_multiquadric) {
    for (int64_t j = 0; j < count; ++j)
      row[j] = gram_entry(KernelKind::inverse_multiquadric, norm_i, norms[j], row[j], gamma);
  }
}

// Of float64: nearer pairs, in units of their norms, lose digits in |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>.
constexpr double kNear = 1e-6;

// The squared distance from differences.
inline double exact_distance(const Tensor& x, int64_t i, int64_t j) {
  const auto* data = static_cast<const double*>(x.const_data_ptr());
  const double *a = data + i * x.stride(0), *b = data + j * x.stride(0);
  double sum = 0;
  for (int64_t k = 0; k < x.size(1); ++k) sum += (a[k] - b[k]) * (a[k] - b[k]);
  return sum;
}

// Entries of rows I and columns J of v; where they are the same rows only those on or above the diagonal are
// read, and the others are mirrored. `minus_one`: K - 1 instead of K, for the Gaussian kernel. In float64 the
// distances of near pairs are made again from differences: that is where float32 asks for help.
template <typename T>
void finish_tile(const Variable<T>& v, bool minus_one, const T* norms, Block I, Block J, int64_t row_begin,
                 int64_t row_end, T* tile, int64_t stride) {
  const KernelKind kind = v.kind;
  const T gamma = v.parameter;
  const bool diagonal = I.begin == J.begin;
  std::vector<int64_t> near;
  for (int64_t i = row_begin; i < row_end; ++i) {
    T* row = tile + i * stride;
    const int64_t first = diagonal ? i + 1 : 0;
    if constexpr (std::is_same_v<T, double>) {
      near.clear();
      const double norm = norms[I.begin + i];
      for (int64_t j = first; kind != KernelKind::linear && j < J.size(); ++j) {
        const double both = norm + norms[J.begin + j];
        if (both - 2 * row[j] < kNear * both) near.push_back(j);
      }
    }
    gram_row<T>(kind, minus_one, row + first, norms[I.begin + i], norms + J.begin + first, gamma,
                J.size() - first);
    if constexpr (std::is_same_v<T, double>) {
      for (int64_t j : near) {
        const double distance = exact_distance(v.data, I.begin + i, J.begin + j);
        if (minus_one)
          row[j] = entry_of_distance(kind, distance, gamma);
        else
          row[j] = kind == KernelKind::gaussian ? std::exp(-gamma * distance) : 1 / std::sqrt(1 + distance);
      }
    }
    if (diagonal && kind != KernelKind::linear)
      row[i] = diagonal_minus_one(norms[I.begin + i]) + T(minus_one ? 0 : 1);
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
