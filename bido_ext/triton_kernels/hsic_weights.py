# SPDX-License-Identifier: Apache-2.0
"""Weights of the feature gradients of a weighted sum of HSIC values; csrc/cpu/hsic_gradient.h.

G = sum_b c_b (L_b + (pair / 2) (l_i + l_j) + total 1'l), zero on the diagonal for the unbiased estimator;
A = feature_weight(G).
"""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.triton_kernels.entry import GRAM, LINEAR, feature_weight, pick_int
from bido_ext.triton_kernels.hsic_sums import estimator, panel_entries


@triton.jit
def partner_coefficient(grad, first, second, own, partner, PAIRS: tl.constexpr):
    """Sum of the gradients of the pairs of two variables; a pair of one with itself counts twice."""
    c = tl.load(grad) * 0.0
    for p in tl.static_range(0, PAIRS):
        times = ((first[p] == own) & (second[p] == partner)).to(tl.float64)
        times += ((second[p] == own) & (first[p] == partner)).to(tl.float64)
        c += tl.where(times > 0.0, times * tl.load(grad + p), 0.0)
    return c


@triton.jit
def hsic_weights_kernel(
    grad, panels, slot_stride, row_stride, labels, parameters, label_index, sums, weights, first, second,
    slots, wanted, kinds, n, row_begin, rows,
    PAIRS: tl.constexpr, VARIABLES: tl.constexpr, WANTED: tl.constexpr, HAS_LABELS: tl.constexpr,
    UNBIASED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    w = tl.program_id(1)
    own = pick_int(wanted, w, WANTED)
    kind = pick_int(kinds, w, WANTED)
    own_slot = pick_int(slots, own, VARIABLES)
    gamma = tl.load(parameters + own).to(tl.float32)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    scale, pair, total = estimator(n, UNBIASED)
    row_shift = tl.zeros((BLOCK_M,), tl.float64)
    for b in tl.static_range(0, VARIABLES):
        c = scale * partner_coefficient(grad, first, second, own, b, PAIRS)
        if c != 0.0:
            in_total = tl.zeros((BLOCK_N,), tl.float64)
            for begin in range(0, n, BLOCK_N):
                j = begin + tl.arange(0, BLOCK_N)
                in_total += tl.load(sums + b * n + j, mask=j < n, other=0.0)
            of_row = tl.load(sums + b * n + row_begin + i, mask=i < rows, other=0.0)
            row_shift += c * (0.5 * pair * of_row + total * tl.sum(in_total, 0))
    for begin in range(0, n, BLOCK_N):
        j = begin + tl.arange(0, BLOCK_N)
        g = tl.zeros((BLOCK_M, BLOCK_N), tl.float64) + row_shift[:, None]
        for b in tl.static_range(0, VARIABLES):
            c = scale * partner_coefficient(grad, first, second, own, b, PAIRS)
            if c != 0.0:
                of_column = tl.load(sums + b * n + j, mask=j < n, other=0.0)
                partner = panel_entries(
                    panels, slot_stride, row_stride, labels, parameters, label_index,
                    pick_int(slots, b, VARIABLES), i, j, rows, n, row_begin, 0, HAS_LABELS,
                )  # fmt: skip
                g += c * (partner + 0.5 * pair * of_column[None, :])
        entry = panel_entries(
            panels, slot_stride, row_stride, labels, parameters, label_index, own_slot, i, j, rows, n,
            row_begin, 0, HAS_LABELS,
        )  # fmt: skip
        weight = feature_weight(kind, entry.to(tl.float32), g.to(tl.float32), gamma, False)
        on_diagonal = row_begin + i[:, None] == j[None, :]
        # The diagonal cancels against itself; its round-off would drown small weights.
        cancels = (kind != LINEAR) & (kind != GRAM)
        weight = tl.where(on_diagonal & (cancels | UNBIASED), 0.0, weight)
        mask = (i < rows)[:, None] & (j < n)[None, :]
        at = (w * rows + i).to(tl.int64)[:, None] * n + j[None, :]
        tl.store(weights + at, weight, mask=mask)
