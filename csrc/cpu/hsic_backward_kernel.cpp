// SPDX-License-Identifier: Apache-2.0
//
// hsic_backward:  grad_x = (A - diag(A 1)) x for every variable of the group that needs it.
//
// Dense (all tiles kept): row panels of A are built from the tiles and multiplied by the features; nothing
// is made twice. Streaming: tiles that were not kept are made again, each off-diagonal tile of A serves
// twice,
//   grad_I += A_IJ x_J,   grad_J += A_IJ' x_I,
// so that the products are those of one full n x n x d product, and diag(A 1) x comes off at the end.
#include <algorithm>
#include <limits>
#include <vector>

#include "gradient_noise.h"
#include "hsic_gradient.h"
#include "huge_pages.h"
#include "pair_arguments.h"
#include "panel_product.h"
#include "resolution.h"

namespace bido {
namespace {

constexpr int64_t kPanelChunk = 32;  // rows of a task where one tile is the whole matrix
constexpr int64_t kManyBlocks = 32;  // from here on the panel is one row of tiles: memory before speed

// A few rows of tiles of A, or of G for a Gram matrix. A tile whose mirror image is stored is kept as its
// transpose, which the product reads as it is.
template <typename T>
class WeightPanel {
 public:
  WeightPanel(const GramTiles<T>& tiles, int64_t n)
      : tiles_(tiles),
        n_(n),
        tile_(tiles.tile()),
        height_(tiles.blocks() == 1 ? std::min(n, kPanelRows) : tile_),
        segments_(tiles.blocks() >= kManyBlocks
                      ? 1
                      : std::min(tiles.blocks(), std::max<int64_t>(1, kPanelRows / height_))),
        size_((panel_buffer_rows<T>(height_) + 8) * tile_),
        data_(make_scratch<T>(segments_ * tiles.blocks() * size_)) {}

  int64_t rows() const { return segments_ * height_; }
  int64_t segment() const { return height_; }

  PanelPart<T> part(int64_t row, int64_t k) const {
    const int64_t column = k / tile_, offset = k % tile_;
    const T* data = data_.get() + (row / height_ * tiles_.blocks() + column) * size_;
    const bool transposed = tiles_.blocks() > 1 && column < (begin_ + row) / tile_;
    return {data + (transposed ? offset * tile_ : offset), tile_, transposed, tile_ - offset};
  }

  // Rows begin.. of the matrix.
  void fill(const HsicGradient<T>& gradient, int64_t begin, int64_t end, GradientNoise<T>& noise) {
    begin_ = begin;
    const int64_t chunk = tiles_.blocks() == 1 ? kPanelChunk : tile_, blocks = tiles_.blocks();
    const int64_t chunks = (end - begin + chunk - 1) / chunk, rows = end - begin;
    const Scratch<double> sums = make_scratch<double>(blocks * rows);
    std::vector<double> noises(chunks * blocks, 0.0);
    torch::stable::parallel_for(0, chunks * blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const int64_t from = t / blocks * chunk, to = std::min(rows, from + chunk), column = t % blocks;
        noises[t] = fill_part(gradient, from, to, column, sums.get() + column * rows + from, noise);
      }
    });
    for (double squares : noises) noise.add(squares);
    if (!gradient.has_diagonal()) return;
    for (int64_t i = 0; i < rows; ++i) {
      double sum = 0;
      for (int64_t b = 0; b < blocks; ++b) sum += sums[b * rows + i];
      const int64_t column = (begin + i) / tile_;
      *at(i, column, (begin + i) % tile_) = static_cast<T>(-sum);
      noise.add_diagonal(sum, begin + i);
    }
  }

  // Copies row i of the panel, all columns, to `out`.
  void copy_row(int64_t i, T* out) const {
    for (int64_t k = 0; k < n_; ++k) {
      const PanelPart<T> p = part(i / height_ * height_, k);
      const int64_t row = i % height_;
      out[k] = p.transposed ? p.data[row] : p.data[row * p.stride];
    }
  }

 private:
  // Entry of panel row i in a tile that is not transposed.
  T* at(int64_t i, int64_t column, int64_t offset) {
    return data_.get() + (i / height_ * tiles_.blocks() + column) * size_ + i % height_ * tile_ + offset;
  }

  // Panel rows from..to (of one segment), columns of one block; their sums over it. Returns their noise.
  double fill_part(const HsicGradient<T>& gradient, int64_t from, int64_t to, int64_t column,
                   double* row_sums, const GradientNoise<T>& noise) {
    const int64_t block = (begin_ + from) / tile_, width = tiles_.rows(column).size();
    const Block I = tiles_.rows(block), J = tiles_.rows(column);
    const bool stored = column >= block;
    const int64_t skip = begin_ + from - I.begin;  // rows of the tile before the first
    std::vector<const T*> pointers(tiles_.variables(), nullptr);
    std::vector<std::pair<size_t, Entries<T>>> entries;
    std::vector<Scratch<T>> labels;
    const auto take = [&](size_t v) {
      T* buffer = nullptr;  // tasks run side by side: each writes its own label tile
      if (tiles_.is_labels(v)) {
        labels.push_back(make_scratch<T>(tile_ * tile_));
        buffer = labels.back().get();
      }
      const Block needed = stored ? Block{skip, skip + to - from} : Block{0, width};
      entries.push_back({v, tiles_.get(v, std::min(block, column), std::max(block, column), buffer, needed)});
    };
    take(gradient.own());
    for (const auto& partner : gradient.partners())
      if (partner.variable != gradient.own()) take(partner.variable);
    const auto advance = [&](int64_t row) {
      for (const auto& [v, tile] : entries) pointers[v] = tile.data + row * tile.stride;
    };
    if (stored) {
      double squares = 0;
      for (int64_t i = from; i < to; ++i) {
        advance(skip + i - from);
        row_sums[i - from] =
            gradient.row(pointers, begin_ + i, J.begin, width, at(i, column, 0), noise, &squares);
      }
      return column > block ? 2 * squares : squares;  // with those of the mirror image
    }
    std::fill(row_sums, row_sums + (to - from), 0.0);
    for (int64_t j = 0; j < width; ++j) {
      advance(j);
      T* row = data_.get() + (from / height_ * tiles_.blocks() + column) * size_ + j * tile_;
      gradient.row(pointers, J.begin + j, I.begin, I.size(), row, noise, nullptr);
      add_row_to_sums<T>(row, row_sums, I.size());
    }
    return 0;
  }

  const GramTiles<T>& tiles_;
  int64_t n_, tile_, height_, segments_, size_, begin_ = 0;
  Scratch<T> data_;
};

template <typename T>
Tensor dense_gradient(const HsicGradient<T>& gradient, const GramTiles<T>& tiles) {
  const Tensor& x = gradient.variable().data;
  const int64_t n = x.size(0);
  Tensor out = empty_large(x, {n, x.size(1)}, x.scalar_type());
  WeightPanel<T> panel(tiles, n);
  const size_t own = gradient.own();
  GradientNoise<T> noise(gradient.variable(), tiles.minus_one(own) ? 1 : 0);
  if (noise.watches()) {
    for (int64_t b = 0; b < tiles.blocks(); ++b)
      noise.take_row_0(tiles.get(own, 0, b).data, tiles.rows(b).begin, tiles.rows(b).size());
    noise.take_products([&](int64_t i, int64_t j) {
      const int64_t row = i / tiles.tile(), column = j / tiles.tile();
      const Entries<T> tile = tiles.get(own, row, column);
      return tile.data[(i - tiles.rows(row).begin) * tile.stride + j - tiles.rows(column).begin];
    });
  }
  for (int64_t begin = 0; begin < n; begin += panel.rows()) {
    const int64_t end = std::min(n, begin + panel.rows());
    panel.fill(gradient, begin, end, noise);
    if (gradient.variable().is_gram()) {
      T* target = static_cast<T*>(out.mutable_data_ptr());
      for (int64_t i = begin; i < end; ++i) panel.copy_row(i - begin, target + i * n);
      continue;
    }
    multiply_panel<T>(
        end - begin, panel.segment(), n, [&](int64_t row, int64_t k) { return panel.part(row, k); }, x, 0,
        out, begin, false);
  }
  noise.mark(out);
  return out;
}

// Adds the column sums of a tile to `sums`; each stretch of columns is one task, rows in order.
template <typename T>
void add_column_sums(const T* tile, int64_t stride, int64_t n_rows, int64_t n_columns, double* sums) {
  constexpr int64_t kColumns = 128;
  torch::stable::parallel_for(0, (n_columns + kColumns - 1) / kColumns, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kColumns, end = std::min(n_columns, last * kColumns);
    for (int64_t i = 0; i < n_rows; ++i)
      add_row_to_sums<T>(tile + i * stride + begin, sums + begin, end - begin);
  });
}

// Gradients of all variables together, so that each tile is made once.
template <typename T>
std::vector<Tensor> streamed_gradients(const std::vector<HsicGradient<T>>& gradients,
                                       const GramTiles<T>& tiles, size_t variables) {
  const int64_t n = gradients[0].variable().data.size(0), tile = tiles.tile();
  std::vector<bool> used(variables, false);
  std::vector<Tensor> outs;
  std::vector<std::vector<double>> weight_sums;
  std::vector<GradientNoise<T>> noises;
  for (const auto& gradient : gradients) {
    const Tensor& x = gradient.variable().data;
    outs.push_back(empty_large(x, {n, x.size(1)}, scalar_type_of<T>()));
    weight_sums.emplace_back(n, 0.0);
    noises.emplace_back(gradient.variable(), tiles.minus_one(gradient.own()) ? 1 : 0);
    used[gradient.own()] = true;
    for (const auto& partner : gradient.partners()) used[partner.variable] = true;
  }
  const Scratch<T> weights = make_scratch<T>((panel_buffer_rows<T>(tile) + 8) * tile);
  std::vector<Entries<T>> current(variables);
  for (int64_t row = 0; row < tiles.blocks(); ++row) {
    for (int64_t column = row; column < tiles.blocks(); ++column) {
      const Block I = tiles.rows(row), J = tiles.rows(column);
      for (size_t v = 0; v < variables; ++v)
        if (used[v]) current[v] = tiles.get(v, row, column);
      for (size_t k = 0; k < gradients.size(); ++k) {
        const auto& gradient = gradients[k];
        std::vector<double> row_sums(I.size()), squares(I.size(), 0.0);
        const Entries<T>& own = current[gradient.own()];
        if (row == 0) noises[k].take_row_0(own.data, J.begin, J.size());
        torch::stable::parallel_for(0, I.size(), 16, [&](int64_t first, int64_t last) {
          std::vector<const T*> pointers(variables, nullptr);
          for (int64_t i = first; i < last; ++i) {
            for (size_t v = 0; v < variables; ++v)
              if (used[v]) pointers[v] = current[v].data + i * current[v].stride;
            row_sums[i] = gradient.row(pointers, I.begin + i, J.begin, J.size(), weights.get() + i * tile,
                                       noises[k], &squares[i]);
          }
        });
        for (double s : squares) noises[k].add(row == column ? s : 2 * s);
        const Tensor& x = gradient.variable().data;
        // Row block 0 meets every column block first: it writes, and the rest adds.
        const auto write = [&](bool transposed, Block to, Block from, bool accumulate) {
          const auto part = [&](int64_t first, int64_t depth) {
            const T* data = weights.get() + (transposed ? depth * tile + first : first * tile + depth);
            return PanelPart<T>{data, tile, transposed, from.size() - depth};
          };
          multiply_panel<T>(to.size(), std::min(to.size(), kPanelRows), from.size(), part, x, from.begin,
                            outs[k], to.begin, accumulate);
        };
        if (gradient.variable().is_gram()) {
          T* target = static_cast<T*>(outs[k].mutable_data_ptr());
          for (int64_t i = 0; i < I.size(); ++i)
            for (int64_t j = 0; j < J.size(); ++j) {
              target[(I.begin + i) * n + J.begin + j] = weights[i * tile + j];
              target[(J.begin + j) * n + I.begin + i] = weights[i * tile + j];
            }
          continue;
        }
        write(false, I, J, row > 0 || column > 0);
        if (row != column) write(true, J, I, row > 0);
        if (!gradient.has_diagonal()) continue;
        for (int64_t i = 0; i < I.size(); ++i) weight_sums[k][I.begin + i] += row_sums[i];
        if (row != column)
          add_column_sums<T>(weights.get(), tile, I.size(), J.size(), weight_sums[k].data() + J.begin);
      }
    }
  }
  for (size_t k = 0; k < gradients.size(); ++k) {
    const Tensor& x = gradients[k].variable().data;
    if (gradients[k].has_diagonal()) {
      subtract_scaled_rows<T>(outs[k], x, weight_sums[k].data());
      for (int64_t i = 0; i < n; ++i) noises[k].add_diagonal(weight_sums[k][i], i);
    }
    noises[k].mark(outs[k]);
    outs[k] = convert_rows(outs[k], x.scalar_type());
  }
  return outs;
}

template <typename T>
std::vector<Tensor> unresolved_gradients(const std::vector<HsicGradient<T>>& gradients) {
  std::vector<Tensor> outs;
  for (const auto& gradient : gradients) {
    const Tensor& x = gradient.variable().data;
    outs.push_back(torch::stable::fill_(empty_large(x, {x.size(0), x.size(1)}, x.scalar_type()),
                                        std::numeric_limits<double>::quiet_NaN()));
  }
  return outs;
}

template <typename T>
std::vector<Tensor> backward(const std::vector<Variable<T>>& group, const Pairs& pairs, const double* grads,
                             const double* sums, const Tensor& kept, bool unbiased, int64_t tile,
                             const std::vector<int64_t>& wanted) {
  GramTiles<T> tiles(group, tile, kept);
  tiles.reuse();
  std::vector<HsicGradient<T>> gradients;
  for (int64_t own : wanted)
    gradients.emplace_back(group, pairs, own, grads, sums, unbiased, T(tiles.minus_one(own) ? 1 : 0));
  // Without features there is nothing to make again.
  if (!tiles.keeps_all() && kept.size(0) > 0) {
    for (size_t v = 0; v < group.size(); ++v)
      if (!resolves<T>(group[v], tiles.norms(v), sums + v * group[0].data.size(0), group[0].data.size(0)))
        return unresolved_gradients<T>(gradients);
    return streamed_gradients<T>(gradients, tiles, group.size());
  }
  std::vector<Tensor> outs;
  for (const auto& gradient : gradients) outs.push_back(dense_gradient<T>(gradient, tiles));
  return outs;
}

}  // namespace

// One gradient for each variable listed in `wanted`.
std::vector<Tensor> hsic_backward_cpu(Tensor grad, std::vector<Tensor> variables, Tensor parameters,
                                      Tensor sums, Tensor kept, std::vector<int64_t> kinds,
                                      std::vector<int64_t> first, std::vector<int64_t> second, bool unbiased,
                                      int64_t tile, std::vector<int64_t> wanted) {
  check_pairs("hsic_backward", variables, kinds, first, second);
  check_wanted("hsic_backward", kinds, wanted);
  const Pairs pairs{first, second};
  STD_TORCH_CHECK(
      grad.scalar_type() == ScalarType::Double && grad.numel() == static_cast<int64_t>(first.size()),
      "hsic_backward: grad must be float64, one entry per pair");
  STD_TORCH_CHECK(!wanted.empty(), "hsic_backward: no gradient is wanted");
  const int64_t n = variables[0].size(0), size = std::min(tile, n);
  int64_t features = 0;
  for (int64_t kind : kinds) features += kind < static_cast<int64_t>(KernelKind::labels);
  STD_TORCH_CHECK(tile >= 1 && sums.scalar_type() == ScalarType::Double && sums.dim() == 2 &&
                      sums.size(0) == static_cast<int64_t>(variables.size()) && sums.size(1) == n,
                  "hsic_backward: sums must be float64 [m, n]");
  STD_TORCH_CHECK(kept.dim() == 4 && kept.size(0) == features && kept.size(2) == size &&
                      kept.size(3) == size && kept.scalar_type() == group_dtype(variables, kinds),
                  "hsic_backward: tiles must be those of the forward");
  grad = torch::stable::contiguous(grad);
  sums = torch::stable::contiguous(sums);
  kept = torch::stable::contiguous(kept);
  const double* g = static_cast<const double*>(grad.const_data_ptr());
  const double* s = static_cast<const double*>(sums.const_data_ptr());
  if (group_dtype(variables, kinds) == ScalarType::Double)
    return backward<double>(make_group<double>("hsic_backward", variables, parameters, kinds), pairs, g, s,
                            kept, unbiased, size, wanted);
  return backward<float>(make_group<float>("hsic_backward", variables, parameters, kinds), pairs, g, s, kept,
                         unbiased, size, wanted);
}

}  // namespace bido

STABLE_TORCH_LIBRARY_IMPL(bido_cpu, CPU, m) { m.impl("hsic_backward", TORCH_BOX(&bido::hsic_backward_cpu)); }
