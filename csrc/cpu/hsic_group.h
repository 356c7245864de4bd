// SPDX-License-Identifier: Apache-2.0
//
// The tiles of a group's Gram matrices, kept or made again, as the forward and the backward of hsic walk
// them.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include "gram.h"

namespace bido {

// Below, K is small for most pairs.
constexpr double kSmallKernel = 0.02;

template <typename T>
struct Entries {
  const T* data;
  int64_t stride;
};

template <typename T>
BIDO_VECTORIZE void same_class_row(const int64_t* labels, int64_t label, T scale, T* out, int64_t n) {
  for (int64_t j = 0; j < n; ++j) out[j] = labels[j] == label ? scale : T(0);
}

// Whether the entries of a variable are K - 1. In float64, which serves where K is small as well, they are K
// there: the one-pass formulas would lose what is left beside 1.
template <typename T>
bool keeps_minus_one(const Variable<T>& v, const T* norms, int64_t n) {
  if (std::is_same_v<T, float> || v.kind == KernelKind::linear || v.kind == KernelKind::energy) return true;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(norms[i]);
  const double distance = 2 * sum / static_cast<double>(n);  // on average
  return kernel_of_distance(
             v.kind, distance,
             Variable<double>{v.data, v.kind, v.exact_parameter, v.exact_parameter, v.alpha}.parameters()) >
         kSmallKernel;
}

template <typename T>
class GramTiles {
 public:
  // `kept`: the first tiles of every feature variable, [features, count, tile, tile], row after row; the
  // others are made again.
  GramTiles(const std::vector<Variable<T>>& group, int64_t tile, const Tensor& kept)
      : group_(group), n_(group[0].data.size(0)), tile_(tile), kept_(kept.size(1)) {
    T* data = static_cast<T*>(kept.mutable_data_ptr());
    int64_t widest = 1;
    for (const auto& v : group_) {
      means_.emplace_back();
      norms_.emplace_back();
      buffers_.emplace_back();
      minus_one_.push_back(true);
      stores_.push_back({data, n_, tile_});
      if (!v.is_features()) {
        if (v.is_labels()) buffers_.back() = make_scratch<T>(tile_ * tile_);
        continue;
      }
      data += kept_ * tile_ * tile_;
      if (keeps_all()) continue;
      means_.back() = make_scratch<T>(v.data.size(1));
      norms_.back() = make_scratch<T>(n_);
      means_and_norms<T>(v.data, means_.back().get(), norms_.back().get());
      minus_one_.back() = keeps_minus_one(v, norms_.back().get(), n_);
      buffers_.back() = make_scratch<T>(tile_ * tile_);
      widest = std::max(widest, chunk_entries<T>(v.data, tile_));
    }
    if (!keeps_all()) {
      left_ = make_scratch<T>(widest);
      right_ = make_scratch<T>(widest);
    }
  }

  int64_t blocks() const { return (n_ + tile_ - 1) / tile_; }
  Block rows(int64_t block) const { return {block * tile_, std::min(n_, (block + 1) * tile_)}; }
  // Says that the forward has made the kept tiles; the diagonal tells whether they are K or K - 1.
  void reuse() {
    filled_ = true;
    for (size_t v = 0; v < group_.size() && keeps_all(); ++v)
      minus_one_[v] = !group_[v].is_features() || group_[v].kind == KernelKind::linear ||
                      group_[v].kind == KernelKind::energy || stores_[v].data[0] != T(1);
  }
  // Whether entries are K - 1, and not K.
  bool minus_one(size_t v) const { return minus_one_[v]; }

  int64_t tile() const { return tile_; }
  size_t variables() const { return group_.size(); }
  bool is_labels(size_t v) const { return group_[v].is_labels(); }
  bool keeps_all() const { return kept_ >= blocks() * (blocks() + 1) / 2; }
  bool keeps(int64_t row, int64_t column) const {
    return row * blocks() - row * (row - 1) / 2 + column - row < kept_;
  }

  // Makes all tiles, where all are kept.
  void fill() {
    filled_ = true;
    std::vector<Variable<T>> features;
    std::vector<TileStore<T>> stores;
    for (size_t v = 0; v < group_.size(); ++v) {
      if (!group_[v].is_features()) continue;
      features.push_back(group_[v]);
      stores.push_back(stores_[v]);
    }
    auto norms = fill_stores<T>(features, stores, keeps_minus_one<T>);
    for (size_t v = 0, next = 0; v < group_.size(); ++v)
      if (group_[v].is_features()) norms_[v] = std::move(norms[next++]);
  }

  // Squared norms of the centered rows, [n]: of features, once the tiles are made.
  const T* norms(size_t v) const { return norms_[v].get(); }

  // Tile (row, column), row <= column, of variable v. A tile made again stays until the next one of that
  // variable. Tasks that run side by side pass a buffer of their own for labels, [tile, tile], and the rows
  // of the tile they read.
  Entries<T> get(size_t v, int64_t row, int64_t column) const {
    return get(v, row, column, buffers_[v].get(), {0, rows(row).size()});
  }
  Entries<T> get(size_t v, int64_t row, int64_t column, T* labels, Block needed) const {
    const Variable<T>& variable = group_[v];
    const Block I = rows(row), J = rows(column);
    if (variable.is_gram()) {
      const T* gram = static_cast<const T*>(variable.data.const_data_ptr());
      const int64_t stride = variable.data.stride(0);
      return {gram + I.begin * stride + J.begin, stride};
    }
    const bool kept = variable.is_features() && keeps(row, column);
    if (kept && filled_) return {stores_[v].at(row, column), tile_};
    if (variable.is_labels()) {
      const int64_t* y = static_cast<const int64_t*>(variable.data.const_data_ptr());
      for (int64_t i = needed.begin; i < needed.end; ++i)
        same_class_row<T>(y + J.begin, y[I.begin + i], variable.parameter, labels + i * tile_, J.size());
      return {labels, tile_};
    }
    T* out = kept ? stores_[v].at(row, column) : buffers_[v].get();
    inner_products_of_tile<T>(variable.data, means_[v].get(), I, J, left_.get(), right_.get(), out, tile_);
    torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
      finish_tile<T>(variable, minus_one_[v], norms_[v].get(), I, J, first, last, out, tile_);
    });
    if (row == column) mirror_upper<T>(out, I.size(), tile_);
    return {out, tile_};
  }

 private:
  const std::vector<Variable<T>>& group_;
  int64_t n_, tile_;
  int64_t kept_;
  bool filled_ = false;
  std::vector<TileStore<T>> stores_;
  std::vector<Scratch<T>> means_, norms_, buffers_;
  std::vector<bool> minus_one_;
  Scratch<T> left_, right_;
};

}  // namespace bido
