// SPDX-License-Identifier: Apache-2.0
//
// The weights of a feature gradient from the gradient G of a whole Gram matrix:
//   grad_x = (A - diag(A 1)) x,  A from sym(G) and the entries (feature_weight in common/kernel_tile.h).
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../common/kernel_tile.h"
#include "../common/stable.h"
#include "gradient_noise.h"
#include "huge_pages.h"
#include "panel_product.h"
#include "small_kernels.h"
#include "variable.h"
#include "vectorize.h"

namespace bido {

// A stretch of one row of A, for one kernel; returns its sum in float64, and adds the noise of its weights to
// `noise`.
template <typename T, KernelKind kKind, EntryForm kForm>
inline __attribute__((always_inline)) double weights_of(const T* grad, const T* grad_transposed,
                                                        const T* gram, T* out, KernelParameters<T> p,
                                                        float power, int64_t n, double* noise) {
  constexpr bool kNoise = std::is_same_v<T, float> && kKind != KernelKind::linear;
  const auto shift = [&](int64_t j) __attribute__((always_inline)) {
    return T(kForm == EntryForm::k || (kForm == EntryForm::either && gram[j] > T(0)) ? 0 : 1);
  };
  const auto gradient = [&](int64_t j) __attribute__((always_inline)) {
    return T(0.5) * (grad[j] + grad_transposed[j]);
  };
  const auto noise_of = [&](int64_t j, T g, T w) __attribute__((always_inline)) {
    return noise_of_weight<kKind>(static_cast<double>(g), static_cast<float>(w), static_cast<float>(gram[j]),
                                  static_cast<float>(shift(j)), power);
  };
  double lanes[kLanes] = {}, noises[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const T g = gradient(j + l), w = feature_weight(kKind, gram[j + l], g, p, shift(j + l));
      out[j + l] = w;
      lanes[l] += static_cast<double>(w);
      if constexpr (kNoise) noises[l] += noise_of(j + l, g, w);
    }
  }
  double sum = 0, noise_sum = 0;
  for (; j < n; ++j) {
    const T g = gradient(j);
    out[j] = feature_weight(kKind, gram[j], g, p, shift(j));
    sum += static_cast<double>(out[j]);
    if constexpr (kNoise) noise_sum += noise_of(j, g, out[j]);
  }
  for (double lane : lanes) sum += lane;
  for (double lane : noises) noise_sum += lane;
  *noise += noise_sum;
  return sum;
}

template <typename T, EntryForm kForm>
inline __attribute__((always_inline)) double weights_of_form(KernelKind kind, const T* grad,
                                                             const T* grad_transposed, const T* gram, T* out,
                                                             KernelParameters<T> p, float power, int64_t n,
                                                             double* noise) {
  switch (kind) {
    case KernelKind::linear:
      return weights_of<T, KernelKind::linear, kForm>(grad, grad_transposed, gram, out, p, power, n, noise);
    case KernelKind::inverse_multiquadric:
      return weights_of<T, KernelKind::inverse_multiquadric, kForm>(grad, grad_transposed, gram, out, p,
                                                                    power, n, noise);
    case KernelKind::laplacian:
      return weights_of<T, KernelKind::laplacian, kForm>(grad, grad_transposed, gram, out, p, power, n,
                                                         noise);
    case KernelKind::energy:
      return weights_of<T, KernelKind::energy, kForm>(grad, grad_transposed, gram, out, p, power, n, noise);
    case KernelKind::rational_quadratic:
      return weights_of<T, KernelKind::rational_quadratic, kForm>(grad, grad_transposed, gram, out, p, power,
                                                                  n, noise);
    default:
      return weights_of<T, KernelKind::gaussian, kForm>(grad, grad_transposed, gram, out, p, power, n, noise);
  }
}

template <typename T>
BIDO_VECTORIZE double weight_row(KernelKind kind, EntryForm form, const T* grad, const T* grad_transposed,
                                 const T* gram, T* out, KernelParameters<T> p, float power, int64_t n,
                                 double* noise) {
  if (form == EntryForm::k)  // the Gaussian kernel
    return weights_of<T, KernelKind::gaussian, EntryForm::k>(grad, grad_transposed, gram, out, p, power, n,
                                                             noise);
  if constexpr (std::is_same_v<T, double>)
    if (form == EntryForm::either)
      return weights_of_form<T, EntryForm::either>(kind, grad, grad_transposed, gram, out, p, power, n,
                                                   noise);
  return weights_of_form<T, EntryForm::minus_one>(kind, grad, grad_transposed, gram, out, p, power, n, noise);
}

// Means of the rows of sym(grad).
template <typename T>
std::vector<double> symmetric_means(const T* grad, int64_t n) {
  std::vector<double> means(n, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      means[i] += 0.5 * static_cast<double>(grad[i * n + j]);
      means[j] += 0.5 * static_cast<double>(grad[i * n + j]);
    }
  }
  for (double& mean : means) mean /= static_cast<double>(n);
  return means;
}

// Rows row_begin..row_end of A - diag(A 1); for the linear kernel, whose features are centered in the
// forward, of H A H, with the means of sym(grad).
template <typename T>
void fill_weight_panel(const Variable<T>& v, EntryForm form, const T* grad, const T* gram, T* panel,
                       int64_t stride, int64_t n, int64_t row_begin, int64_t row_end,
                       const std::vector<double>& means, GradientNoise<T>& noise) {
  double total = 0;
  for (double mean : means) total += mean / static_cast<double>(n);
  constexpr int64_t kRows = 32;
  const int64_t blocks = (row_end - row_begin + kRows - 1) / kRows;
  std::vector<double> noises(blocks, 0.0);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    const Scratch<T> transposed = make_scratch<T>(kRows * n);
    for (int64_t b = first; b < last; ++b) {
      const int64_t i0 = row_begin + b * kRows, i1 = std::min(row_end, i0 + kRows);
      for (int64_t j = 0; j < n; ++j)  // columns i0..i1 of grad, read along its rows
        for (int64_t i = i0; i < i1; ++i) transposed[(i - i0) * n + j] = grad[j * n + i];
      for (int64_t i = i0; i < i1; ++i) {
        T* out = panel + (i - row_begin) * stride;
        const T *row = grad + i * n, *column = transposed.get() + (i - i0) * n, *k = gram + i * n;
        double squares = 0;
        if (v.kind == KernelKind::linear) {
          weight_row<T>(v.kind, form, row, column, k, out, v.parameters(), 0, n, &squares);
          for (int64_t j = 0; j < n; ++j) out[j] -= static_cast<T>(2 * (means[i] + means[j] - total));
          if (noise.watches()) squares = squares_of_weights<T>(out, n) / 4;  // of their gradient
        } else {
          // The diagonal cancels against itself: left out, or its round-off would drown small weights.
          const double before =
              weight_row<T>(v.kind, form, row, column, k, out, v.parameters(), noise.power(), i, &squares);
          const double after = weight_row<T>(v.kind, form, row + i + 1, column + i + 1, k + i + 1,
                                             out + i + 1, v.parameters(), noise.power(), n - i - 1, &squares);
          out[i] = static_cast<T>(-(before + after));
        }
        // Twice, for R_i^2 + R_j^2: A is symmetric.
        if (noise.watches()) noises[b] += 2 * squares * *noise.distances(i);
      }
    }
  });
  if (v.kind != KernelKind::linear)
    for (int64_t i = row_begin; i < row_end; ++i)
      noise.add_diagonal(static_cast<double>(panel[(i - row_begin) * stride + i]), i);
  for (double squares : noises) noise.add(squares);
}

// The gradient of the features from that of their Gram matrix, both contiguous (n, n).
template <typename T>
Tensor gradient_of_features(const Variable<T>& v, bool is_k, const T* grad, const T* gram) {
  // Twice the rows where that is half of the matrix: the features are packed half as often.
  const int64_t n = v.data.size(0), rows = std::min(n, n > 512 && n <= 1024 ? 2 * kPanelRows : kPanelRows);
  const int64_t stride = n + kSkew;
  Tensor out = empty_large(v.data, {n, v.data.size(1)}, v.data.scalar_type());
  const Scratch<T> panel = make_scratch<T>(panel_buffer_rows<T>(rows) * stride);
  const auto means = v.kind == KernelKind::linear ? symmetric_means<T>(grad, n) : std::vector<double>();
  GradientNoise<T> noise(v, is_k ? 0 : 1);
  EntryForm form = is_k ? EntryForm::k : EntryForm::minus_one;
  Scratch<T> either;
  if constexpr (std::is_same_v<T, double>) {
    if (!is_k && is_lost_in_minus_one(v, gram, n)) {
      either = entries_of_either_form(v, gram, n);
      gram = either.get();
      form = EntryForm::either;
    }
  }
  noise.take_row_0(gram, 0, n);
  noise.take_products([&](int64_t i, int64_t j) { return gram[i * n + j]; });
  for (int64_t begin = 0; begin < n; begin += rows) {
    const int64_t end = std::min(n, begin + rows);
    fill_weight_panel<T>(v, form, grad, gram, panel.get(), stride, n, begin, end, means, noise);
    multiply_panel<T>(panel.get(), stride, end - begin, n, v.data, out, begin);
  }
  noise.mark(out);
  return out;
}

// The gradient of a variable from that of its Gram matrix up to centering.
template <typename T>
Tensor gradient_of_variable(const Variable<T>& v, const Tensor& grad, const T* gram) {
  return v.is_gram() ? grad
                     : gradient_of_features<T>(v, false, static_cast<const T*>(grad.const_data_ptr()), gram);
}

}  // namespace bido
