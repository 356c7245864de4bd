# SPDX-License-Identifier: Apache-2.0
"""The sums HSIC is made of: row sums of each Gram matrix and, per pair, sum K o L; csrc/cpu/hsic_sums.h.

``variables`` is a table of VARIABLE_COLUMNS numbers per variable: its slot in a panel (-1: the labels), its kind,
its place among the features, and begin and count of its spreads. ``pairs`` has two variables per pair.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.triton_kernels.entry import ENERGY, LABELS, LINEAR
from bido_ext.triton_kernels.resolution import is_unresolved

VARIABLE_COLUMNS = tl.constexpr(5)
#: Of float64 sums: what is smaller is nothing.
ROUNDOFF = tl.constexpr(1e-15)


@triton.jit
def estimator(n, UNBIASED: tl.constexpr):
    """value = scale (sum K o L + pair k'l + total (1'k)(1'l)); Gretton 2005, or Song 2012, equation 5. Made
    here, in float64: a float from Python arrives in float32, and the sums nearly cancel."""
    m = tl.cast(n, tl.float64)
    if UNBIASED:
        scale = 1.0 / (m * (m - 3.0))
        pair = -2.0 / (m - 2.0)
        total = 1.0 / ((m - 1.0) * (m - 2.0))
    else:
        scale = 1.0 / ((m - 1.0) * (m - 1.0))
        pair = -2.0 / m
        total = 1.0 / (m * m)
    return scale, pair, total


@triton.jit
def panel_entries(
    panels, slot_stride, row_stride, labels, label_scale, slot, i, j, rows, columns, row_begin,
    column_begin,
    HAS_LABELS: tl.constexpr,
):  # fmt: skip
    """Entries (i, j) of a panel in float64, zero outside of it; of the labels where slot is -1.

    label_scale: Points to it.
    """
    mask = (i < rows)[:, None] & (j < columns)[None, :]
    at = slot.to(tl.int64) * slot_stride + i.to(tl.int64)[:, None] * row_stride + j[None, :]
    # A scalar condition beside the mask is no mask to the interpreter of Triton 3.9.
    in_panel = (i < rows)[:, None] & (j < tl.where(slot >= 0, columns, 0))[None, :]
    value = tl.load(panels + at, mask=in_panel, other=0.0).to(tl.float64)
    if HAS_LABELS:
        if slot < 0:
            y_i = tl.load(labels + row_begin + i, mask=i < rows, other=0)
            y_j = tl.load(labels + column_begin + j, mask=j < columns, other=0)
            same = mask & (y_i[:, None] == y_j[None, :])
            value = tl.where(same, tl.load(label_scale), 0.0)
    return value


@triton.jit
def pair_sums_kernel(
    panels, slot_stride, row_stride, labels, label_scale, variables, pairs, pair_count, partial,
    partial_stride, partial_begin, sums, n, row_begin, rows, column_begin, columns,
    HAS_LABELS: tl.constexpr, UNBIASED: tl.constexpr, WHOLE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program (., t) adds up rows for pair t or, beyond the pairs, of one variable."""
    task = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M,), tl.float64)
    is_pair = task < pair_count
    a = task - pair_count
    b = a
    if is_pair:
        a = tl.load(pairs + 2 * task)
        b = tl.load(pairs + 2 * task + 1)
    a_slot = tl.load(variables + a * VARIABLE_COLUMNS)
    b_slot = tl.load(variables + b * VARIABLE_COLUMNS)
    for begin in range(0, columns, BLOCK_N):
        j = begin + tl.arange(0, BLOCK_N)
        value = panel_entries(
            panels, slot_stride, row_stride, labels, label_scale, a_slot, i, j, rows, columns,
            row_begin, column_begin, HAS_LABELS,
        )  # fmt: skip
        if is_pair:
            value *= panel_entries(
                panels, slot_stride, row_stride, labels, label_scale, b_slot, i, j, rows, columns,
                row_begin, column_begin, HAS_LABELS,
            )  # fmt: skip
            # Columns beyond the panel's own rows stand for their mirror image as well.
            value = tl.where((column_begin + j >= row_begin + rows)[None, :], 2.0 * value, value)
        if UNBIASED:
            value = tl.where(row_begin + i[:, None] == column_begin + j[None, :], 0.0, value)
        total += tl.sum(value, 1)
    if is_pair:
        at = partial + task * partial_stride + partial_begin + tl.program_id(0)
        tl.store(at, tl.sum(total, 0))
    else:
        target = sums + a.to(tl.int64) * n + row_begin + i
        mask = i < rows
        if not WHOLE:  # what the columns of earlier panels have left there
            total += tl.load(target, mask=mask, other=0.0)
        tl.store(target, total, mask=mask)


@triton.jit
def column_sums_kernel(
    panels, slot_stride, row_stride, labels, label_scale, variables, sums, n, row_begin, rows,
    column_begin, columns,
    HAS_LABELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds the columns beyond the panel's own rows to the sums of the rows they mirror."""
    slot = tl.load(variables + tl.program_id(1) * VARIABLE_COLUMNS)
    j = rows + tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for begin in range(0, rows, BLOCK_M):
        i = begin + tl.arange(0, BLOCK_M)
        value = panel_entries(
            panels, slot_stride, row_stride, labels, label_scale, slot, i, j, rows, columns, row_begin,
            column_begin, HAS_LABELS,
        )  # fmt: skip
        total += tl.sum(value, 0)
    target = sums + tl.program_id(1).to(tl.int64) * n + column_begin + j
    mask = j < columns
    tl.store(target, tl.load(target, mask=mask, other=0.0) + total, mask=mask)


@triton.jit
def is_lost(
    variables, own, parameters, parameter_stride, norms, spreads, total, n, BLOCK: tl.constexpr
):
    """Whether float32 does not hold the matrix of variable ``own``, whose entries off the diagonal sum to
    ``total``; NaN among them is seen as well."""
    row = variables + own * VARIABLE_COLUMNS
    kind = tl.load(row + 1)
    lost = total != total
    if kind < LABELS:
        gamma = tl.load(parameters + own * parameter_stride).to(tl.float32)
        count = tl.cast(n, tl.float64)
        mean = 1.0 + total / tl.maximum(count * (count - 1.0), 1.0)
        of_norms = is_unresolved(
            kind, gamma, norms + tl.load(row + 2).to(tl.int64) * n, spreads + tl.load(row + 3),
            tl.load(row + 4), mean, n, (kind != LINEAR) & (kind != ENERGY), BLOCK,
        )  # fmt: skip
        lost = lost | of_norms
    return lost


@triton.jit
def hsic_values_kernel(
    sums, partial, values, variables, pairs, pair_count, parameters, parameter_stride, norms, spreads,
    n, blocks,
    UNBIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scale (sum K o L + pair k'l + total (1'k)(1'l)) of one pair per program, NaN where a variable is not
    resolved. Beyond the pairs, a program per variable makes the first of its sums NaN then, for the backward:
    the others come to the same verdict with it or without."""
    p = tl.program_id(0)
    is_pair = p < pair_count
    a = p - pair_count
    b = a
    if is_pair:
        a = tl.load(pairs + 2 * p)
        b = tl.load(pairs + 2 * p + 1)
    cross = tl.zeros((BLOCK,), tl.float64)
    k_sums = tl.zeros((BLOCK,), tl.float64)
    l_sums = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        k_i = tl.load(sums + a.to(tl.int64) * n + at, mask=at < n, other=0.0)
        l_i = tl.load(sums + b.to(tl.int64) * n + at, mask=at < n, other=0.0)
        cross += k_i * l_i
        k_sums += k_i
        l_sums += l_i
    k_total = tl.sum(k_sums, 0)
    l_total = tl.sum(l_sums, 0)
    lost = is_lost(variables, a, parameters, parameter_stride, norms, spreads, k_total, n, BLOCK)
    if is_pair:
        if a != b:
            lost = lost | is_lost(
                variables, b, parameters, parameter_stride, norms, spreads, l_total, n, BLOCK
            )
        products = tl.zeros((BLOCK,), tl.float64)
        for begin in range(0, blocks, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            products += tl.load(partial + p * blocks + at, mask=at < blocks, other=0.0)
        scale, pair, total = estimator(n, UNBIASED)
        trace = tl.sum(products, 0)
        of_rows = pair * tl.sum(cross, 0)
        of_totals = total * k_total * l_total
        value = trace + of_rows + of_totals
        # Of a constant variable nothing is left but round-off, which no ratio may take for a number.
        size = tl.abs(trace) + tl.abs(of_rows) + tl.abs(of_totals)
        value = tl.where(tl.abs(value) <= size * ROUNDOFF, 0.0 * tl.abs(value), scale * value)
        tl.store(values + p, tl.where(lost, float("nan"), value))
    elif lost:
        tl.store(sums + a.to(tl.int64) * n, float("nan"))
