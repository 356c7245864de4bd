# SPDX-License-Identifier: Apache-2.0
"""Weights of the feature gradients of a weighted sum of HSIC values; csrc/cpu/hsic_gradient.h.

G = sum_p c_p (L_b + (pair / 2) (l_i + l_j) + total 1'l), over the pairs p of a variable and their partners b, zero
on the diagonal for the unbiased estimator; A = feature_weight(G).

``wanted`` is a table of WANTED_COLUMNS numbers per wanted variable: itself, its slot, its kind, and begin and end
of its rows in ``partners``: pair, partner, slot of the partner, times (2 for a pair of one with itself).
"""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.triton_kernels.entry import (
    GRAM,
    LINEAR,
    RATIONAL_QUADRATIC,
    feature_weight,
    round_to_tf32,
)
from bido_ext.triton_kernels.hsic_sums import estimator, panel_entries

WANTED_COLUMNS = tl.constexpr(5)
PARTNER_COLUMNS = tl.constexpr(4)


@triton.jit
def hsic_weights_kernel(
    grad, panels, slot_stride, row_stride, labels, label_scale, parameters, parameter_stride, sums,
    weights, weight_stride, part_stride, totals, wanted, partners, n, row_begin, rows,
    HAS_LABELS: tl.constexpr, UNBIASED: tl.constexpr, PARTS: tl.constexpr, TOTALS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Weights in PARTS parts, for products on tensor cores with the row sums of what those take (TOTALS)."""
    w = tl.program_id(1)
    task = wanted + w * WANTED_COLUMNS
    own = tl.load(task)
    own_slot = tl.load(task + 1)
    kind = tl.load(task + 2)
    first = tl.load(task + 3)
    last = tl.load(task + 4)
    gamma = tl.load(parameters + own * parameter_stride).to(tl.float32)
    alpha = gamma
    if kind == RATIONAL_QUADRATIC:
        alpha = tl.load(parameters + own * parameter_stride + 1).to(tl.float32)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    scale, pair, total = estimator(n, UNBIASED)
    row_shift = tl.zeros((BLOCK_M,), tl.float64)
    for e in range(first, last):
        partner = partners + e * PARTNER_COLUMNS
        c = scale * tl.load(grad + tl.load(partner)) * tl.load(partner + 3)
        if c != 0.0:
            l_sums = sums + tl.load(partner + 1).to(tl.int64) * n
            in_total = tl.zeros((BLOCK_N,), tl.float64)
            for begin in range(0, n, BLOCK_N):
                j = begin + tl.arange(0, BLOCK_N)
                in_total += tl.load(l_sums + j, mask=j < n, other=0.0)
            of_row = tl.load(l_sums + row_begin + i, mask=i < rows, other=0.0)
            row_shift += c * (0.5 * pair * of_row + total * tl.sum(in_total, 0))
    # The first sum is NaN where float32 has not resolved the own matrix: then no gradient is a number.
    of_first = tl.load(sums + own.to(tl.int64) * n)
    unresolved = (of_first - of_first).to(tl.float32)
    total_of_rows = tl.zeros((BLOCK_M,), tl.float64)
    for begin in range(0, n, BLOCK_N):
        j = begin + tl.arange(0, BLOCK_N)
        g = tl.zeros((BLOCK_M, BLOCK_N), tl.float64) + row_shift[:, None]
        for e in range(first, last):
            partner = partners + e * PARTNER_COLUMNS
            c = scale * tl.load(grad + tl.load(partner)) * tl.load(partner + 3)
            if c != 0.0:
                l_sums = sums + tl.load(partner + 1).to(tl.int64) * n
                of_column = tl.load(l_sums + j, mask=j < n, other=0.0)
                of_partner = panel_entries(
                    panels, slot_stride, row_stride, labels, label_scale, tl.load(partner + 2), i, j,
                    rows, n, row_begin, 0, HAS_LABELS,
                )  # fmt: skip
                g += c * (of_partner + 0.5 * pair * of_column[None, :])
        entry = panel_entries(
            panels, slot_stride, row_stride, labels, label_scale, own_slot, i, j, rows, n, row_begin,
            0, HAS_LABELS,
        )  # fmt: skip
        weight = feature_weight(kind, entry.to(tl.float32), g.to(tl.float32), gamma, alpha, False)
        on_diagonal = row_begin + i[:, None] == j[None, :]
        # The diagonal cancels against itself; its round-off would drown small weights.
        cancels = (kind != LINEAR) & (kind != GRAM)
        weight = tl.where(on_diagonal & (cancels | UNBIASED), 0.0, weight) + unresolved
        mask = (i < rows)[:, None] & (j < n)[None, :]
        at = weights + (w * rows + i).to(tl.int64)[:, None] * weight_stride + j[None, :]
        if TOTALS and PARTS == 1:
            weight = round_to_tf32(weight)
        left = weight
        for part in tl.static_range(PARTS):
            value = left.to(weights.dtype.element_ty)
            tl.store(at + part * tl.cast(part_stride, tl.int64), value, mask=mask)
            left -= value.to(tl.float32)
        if TOTALS:
            total_of_rows += tl.sum(tl.where(mask, weight, 0.0).to(tl.float64), 1)
    if TOTALS:
        tl.store(totals + w * rows + i, total_of_rows.to(tl.float32), mask=i < rows)
