// SPDX-License-Identifier: Apache-2.0
//
// hsic_backward:  grad_x = (A - diag(A 1)) x for every variable of the group that needs it.
//
// Dense (tiles kept): row panels of A are built from the tiles and multiplied by the features; nothing is
// made twice. Streaming: tiles are made again, each off-diagonal tile of A serves twice,
//   grad_I += A_IJ x_J,   grad_J += A_IJ' x_I,
// so that the products are those of one full n x n x d product, and diag(A 1) x comes off at the end.
#include <algorithm>
#include <vector>

#include "hsic_gradient.h"
#include "huge_pages.h"
#include "panel_product.h"

namespace bido {
namespace {

constexpr int64_t kPanelChunk = 32;  // rows of a task where one tile is the whole matrix

// Rows begin..end of A for columns of block `column`, into a panel of n columns; sums of each row.
template <typename T>
void fill_part(const HsicGradient<T>& gradient, const GramTiles<T>& tiles, int64_t begin, int64_t end,
               int64_t block, int64_t column, T* panel, int64_t n, double* row_sums) {
  const Block I = tiles.rows(block), J = tiles.rows(column);
  const bool stored = column >= block;  // else its mirror image is
  const int64_t height = end - begin, width = J.size();
  std::vector<const T*> pointers(tiles.variables(), nullptr);
  std::vector<std::pair<size_t, Entries<T>>> entries;
  std::vector<Scratch<T>> labels;
  const auto take = [&](size_t v) {
    T* buffer = nullptr;  // tasks run side by side: each writes its own label tile
    if (tiles.is_labels(v)) {
      labels.push_back(make_scratch<T>(tiles.tile() * tiles.tile()));
      buffer = labels.back().get();
    }
    const Block needed = stored ? Block{begin - I.begin, end - I.begin} : Block{0, width};
    entries.push_back({v, tiles.get(v, std::min(block, column), std::max(block, column), buffer, needed)});
  };
  take(gradient.own());
  for (const auto& partner : gradient.partners())
    if (partner.variable != gradient.own()) take(partner.variable);
  const auto advance = [&](int64_t row, int64_t offset) {
    for (const auto& [v, tile] : entries) pointers[v] = tile.data + row * tile.stride + offset;
  };
  const Scratch<double> g = make_scratch<double>(std::max(width, height));
  if (stored) {
    for (int64_t i = begin; i < end; ++i) {
      advance(i - I.begin, 0);
      row_sums[i - begin] = gradient.row(pointers, i, J.begin, width, panel + (i - begin) * n + J.begin, g.get());
    }
    return;
  }
  const Scratch<T> part = make_scratch<T>(width * height);
  std::fill(row_sums, row_sums + height, 0.0);
  for (int64_t j = 0; j < width; ++j) {
    advance(j, begin - I.begin);
    T* row = part.get() + j * height;
    gradient.row(pointers, J.begin + j, begin, height, row, g.get());
    add_row_to_sums<T>(row, row_sums, height);
  }
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) panel[i * n + J.begin + j] = part[j * height + i];
}

// Rows begin..end of A - diag(A 1), or of G for a Gram matrix.
template <typename T>
void fill_panel(const HsicGradient<T>& gradient, const GramTiles<T>& tiles, int64_t begin, int64_t end, T* panel,
                int64_t n) {
  const int64_t chunk = tiles.blocks() == 1 ? kPanelChunk : tiles.tile();
  const int64_t chunks = (end - begin + chunk - 1) / chunk, rows = end - begin;
  const Scratch<double> sums = make_scratch<double>(tiles.blocks() * rows);
  torch::stable::parallel_for(0, chunks * tiles.blocks(), 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t from = begin + t / tiles.blocks() * chunk, to = std::min(end, from + chunk);
      const int64_t column = t % tiles.blocks();
      fill_part<T>(gradient, tiles, from, to, from / tiles.tile(), column, panel + (from - begin) * n, n,
                   sums.get() + column * rows + (from - begin));
    }
  });
  if (!gradient.has_diagonal()) return;
  for (int64_t i = 0; i < rows; ++i) {
    double sum = 0;
    for (int64_t b = 0; b < tiles.blocks(); ++b) sum += sums[b * rows + i];
    panel[i * n + begin + i] = static_cast<T>(-sum);
  }
}

template <typename T>
Tensor dense_gradient(const HsicGradient<T>& gradient, const GramTiles<T>& tiles) {
  const Tensor& x = gradient.variable().data;
  const int64_t n = x.size(0);
  Tensor out = empty_large(x, {n, x.size(1)}, x.scalar_type());
  if (gradient.variable().is_gram()) {
    fill_panel<T>(gradient, tiles, 0, n, static_cast<T*>(out.mutable_data_ptr()), n);
    return out;
  }
  const int64_t step = tiles.blocks() == 1 ? kPanelRows : std::max<int64_t>(1, kPanelRows / tiles.tile()) * tiles.tile();
  const Scratch<T> panel = make_scratch<T>(panel_buffer_rows<T>(std::min(n, step)) * n);
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t end = std::min(n, begin + step);
    fill_panel<T>(gradient, tiles, begin, end, panel.get(), n);
    multiply_panel<T>(panel.get(), n, end - begin, x, 0, n, out, begin, false);
  }
  return out;
}

// Gradients of all variables together, so that each tile is made once.
template <typename T>
std::vector<Tensor> streamed_gradients(const std::vector<HsicGradient<T>>& gradients, const GramTiles<T>& tiles,
                                       size_t variables) {
  const int64_t n = gradients[0].variable().data.size(0), tile = tiles.tile();
  std::vector<bool> used(variables, false);
  std::vector<Tensor> outs;
  std::vector<std::vector<double>> weight_sums;
  for (const auto& gradient : gradients) {
    const Tensor& x = gradient.variable().data;
    outs.push_back(empty_large(x, {n, x.size(1)}, scalar_type_of<T>()));
    weight_sums.emplace_back(n, 0.0);
    used[gradient.own()] = true;
    for (const auto& partner : gradient.partners()) used[partner.variable] = true;
  }
  const Scratch<T> weights = make_scratch<T>(panel_buffer_rows<T>(tile) * tile);
  const Scratch<T> transposed = make_scratch<T>(panel_buffer_rows<T>(tile) * tile);
  std::vector<Entries<T>> current(variables);
  for (int64_t row = 0; row < tiles.blocks(); ++row) {
    for (int64_t column = row; column < tiles.blocks(); ++column) {
      const Block I = tiles.rows(row), J = tiles.rows(column);
      for (size_t v = 0; v < variables; ++v)
        if (used[v]) current[v] = tiles.get(v, row, column);
      for (size_t k = 0; k < gradients.size(); ++k) {
        const auto& gradient = gradients[k];
        std::vector<double> row_sums(I.size());
        torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
          const Scratch<double> g = make_scratch<double>(J.size());
          std::vector<const T*> pointers(variables, nullptr);
          for (int64_t i = first; i < last; ++i) {
            for (size_t v = 0; v < variables; ++v)
              if (used[v]) pointers[v] = current[v].data + i * current[v].stride;
            row_sums[i] = gradient.row(pointers, I.begin + i, J.begin, J.size(), weights.get() + i * tile, g.get());
            for (int64_t j = 0; j < J.size(); ++j) transposed[j * tile + i] = weights[i * tile + j];
          }
        });
        const bool features = !gradient.variable().is_gram();
        const auto write = [&](const T* a, Block to, Block from, bool accumulate) {
          if (features) {
            multiply_panel<T>(a, tile, to.size(), gradient.variable().data, from.begin, from.end, outs[k], to.begin,
                              accumulate);
          } else {
            store_rows<T>(a, tile, outs[k], to.begin, to.size(), from.begin, from.end, false);
          }
        };
        // Row block 0 meets every column block first: it writes, and the rest adds.
        write(weights.get(), I, J, row > 0 || column > 0);
        if (row != column) write(transposed.get(), J, I, row > 0);
        if (!gradient.has_diagonal()) continue;
        for (int64_t i = 0; i < I.size(); ++i) weight_sums[k][I.begin + i] += row_sums[i];
        if (row == column) continue;
        torch::stable::parallel_for(0, J.size(), 16, [&](int64_t first, int64_t last) {
          for (int64_t j = first; j < last; ++j)
            weight_sums[k][J.begin + j] += row_sum<T>(transposed.get() + j * tile, I.size());
        });
      }
    }
  }
  for (size_t k = 0; k < gradients.size(); ++k) {
    const Tensor& x = gradients[k].variable().data;
    if (gradients[k].has_diagonal()) subtract_scaled_rows<T>(outs[k], x, weight_sums[k].data());
    outs[k] = convert_rows(outs[k], x.scalar_type());
  }
  return outs;
}

template <typename T>
std::vector<Tensor> backward(const std::vector<Variable<T>>& group, const Pairs& pairs, const double* grads,
                             const double* sums, const Tensor& kept, bool unbiased, int64_t tile,
                             const std::vector<int64_t>& wanted) {
  const GramTiles<T> tiles(group, tile, kept);
  std::vector<HsicGradient<T>> gradients;
  for (int64_t own : wanted) gradients.emplace_back(group, pairs, own, grads, sums, unbiased);
  bool made_again = !tiles.keeps();
  if (made_again) {
    made_again = false;  // without features there is nothing to make again
    for (const auto& v : group) made_again = made_again || v.is_features();
  }
  if (made_again) return streamed_gradients<T>(gradients, tiles, group.size());
  std::vector<Tensor> outs;
  for (const auto& gradient : gradients) outs.push_back(dense_gradient<T>(gradient, tiles));
  return outs;
}

}  // namespace

// One gradient for each variable listed in `wanted`.
std::vector<Tensor> hsic_backward_cpu(Tensor grad, std::vector<Tensor> variables, Tensor parameters, Tensor sums,
                                      Tensor kept, std::vector<int64_t> kinds, std::vector<int64_t> first,
                                      std::vector<int64_t> second, bool unbiased, int64_t tile,
                                      std::vector<int64_t> wanted) {
  const Pairs pairs{first, second};
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Double && grad.numel() == static_cast<int64_t>(first.size()),
                  "hsic_backward: grad must be float64, one entry per pair");
  STD_TORCH_CHECK(!wanted.empty(), "hsic_backward: no gradient is wanted");
  for (int64_t v : wanted)
    STD_TORCH_CHECK(v >= 0 && v < static_cast<int64_t>(variables.size()) &&
                        kinds[v] != static_cast<int64_t>(KernelKind::labels),
                    "hsic_backward: labels have no gradient");
  grad = torch::stable::contiguous(grad);
  sums = torch::stable::contiguous(sums);
  kept = torch::stable::contiguous(kept);
  const double* g = static_cast<const double*>(grad.const_data_ptr());
  const double* s = static_cast<const double*>(sums.const_data_ptr());
  const int64_t size = std::min(tile, variables[0].size(0));
  if (group_dtype(variables, kinds) == ScalarType::Double)
    return backward<double>(make_group<double>("hsic_backward", variables, parameters, kinds), pairs, g, s, kept,
                            unbiased, size, wanted);
  return backward<float>(make_group<float>("hsic_backward", variables, parameters, kinds), pairs, g, s, kept,
                         unbiased, size, wanted);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_ext, CPU, m) { m.impl("hsic_backward", TORCH_BOX(&bido::hsic_backward_cpu)); }
