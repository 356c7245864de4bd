# SPDX-License-Identifier: Apache-2.0
"""The sums HSIC is made of: row sums of each Gram matrix and, per pair, sum K o L; csrc/cpu/hsic_sums.h."""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.triton_kernels.entry import pick_int


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
    panels, slot_stride, row_stride, labels, parameters, label_index, slot, i, j, rows, columns,
    row_begin, column_begin,
    HAS_LABELS: tl.constexpr,
):  # fmt: skip
    """Entries (i, j) of a panel in float64, zero outside of it; of the labels where slot is -1."""
    mask = (i < rows)[:, None] & (j < columns)[None, :]
    at = slot.to(tl.int64) * slot_stride + i.to(tl.int64)[:, None] * row_stride + j[None, :]
    value = tl.load(panels + at, mask=mask & (slot >= 0), other=0.0).to(tl.float64)
    if HAS_LABELS:
        if slot < 0:
            y_i = tl.load(labels + row_begin + i, mask=i < rows, other=0)
            y_j = tl.load(labels + column_begin + j, mask=j < columns, other=0)
            same = mask & (y_i[:, None] == y_j[None, :])
            value = tl.where(same, tl.load(parameters + label_index), 0.0)
    return value


@triton.jit
def pair_sums_kernel(
    panels, slot_stride, row_stride, labels, parameters, label_index, first, second, slots, partial,
    partial_stride, partial_begin, sums, n, row_begin, rows, column_begin, columns,
    PAIRS: tl.constexpr, VARIABLES: tl.constexpr, HAS_LABELS: tl.constexpr, UNBIASED: tl.constexpr,
    WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    task = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M,), tl.float64)
    is_pair = task < PAIRS
    a_slot = tl.where(
        is_pair, pick_int(first, task, PAIRS), pick_int(slots, task - PAIRS, VARIABLES)
    )
    b_slot = pick_int(second, task, PAIRS)
    for begin in range(0, columns, BLOCK_N):
        j = begin + tl.arange(0, BLOCK_N)
        value = panel_entries(
            panels, slot_stride, row_stride, labels, parameters, label_index, a_slot, i, j, rows, columns,
            row_begin, column_begin, HAS_LABELS,
        )  # fmt: skip
        if is_pair:
            value *= panel_entries(
                panels, slot_stride, row_stride, labels, parameters, label_index, b_slot, i, j, rows,
                columns, row_begin, column_begin, HAS_LABELS,
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
        target = sums + (task - PAIRS).to(tl.int64) * n + row_begin + i
        mask = i < rows
        if not WHOLE:  # what the columns of earlier panels have left there
            total += tl.load(target, mask=mask, other=0.0)
        tl.store(target, total, mask=mask)


@triton.jit
def column_sums_kernel(
    panels, slot_stride, row_stride, labels, parameters, label_index, slots, sums, n, row_begin, rows,
    column_begin, columns,
    VARIABLES: tl.constexpr, HAS_LABELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds the columns beyond the panel's own rows to the sums of the rows they mirror."""
    slot = pick_int(slots, tl.program_id(1), VARIABLES)
    j = rows + tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for begin in range(0, rows, BLOCK_M):
        i = begin + tl.arange(0, BLOCK_M)
        value = panel_entries(
            panels, slot_stride, row_stride, labels, parameters, label_index, slot, i, j, rows, columns,
            row_begin, column_begin, HAS_LABELS,
        )  # fmt: skip
        total += tl.sum(value, 0)
    target = sums + tl.program_id(1).to(tl.int64) * n + column_begin + j
    mask = j < columns
    tl.store(target, tl.load(target, mask=mask, other=0.0) + total, mask=mask)


@triton.jit
def hsic_values_kernel(
    sums, partial, values, first, second, n, blocks,
    PAIRS: tl.constexpr, UNBIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scale (sum K o L + pair k'l + total (1'k)(1'l)) of one pair per program."""
    p = tl.program_id(0)
    row_sums_k = sums + pick_int(first, p, PAIRS).to(tl.int64) * n
    row_sums_l = sums + pick_int(second, p, PAIRS).to(tl.int64) * n
    products = tl.zeros((BLOCK,), tl.float64)
    cross = tl.zeros((BLOCK,), tl.float64)
    k_total = tl.zeros((BLOCK,), tl.float64)
    l_total = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, blocks, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        products += tl.load(partial + p * blocks + at, mask=at < blocks, other=0.0)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        k_i = tl.load(row_sums_k + at, mask=at < n, other=0.0)
        l_i = tl.load(row_sums_l + at, mask=at < n, other=0.0)
        cross += k_i * l_i
        k_total += k_i
        l_total += l_i
    scale, pair, total = estimator(n, UNBIASED)
    trace = tl.sum(products, 0) + pair * tl.sum(cross, 0)
    value = scale * (trace + total * tl.sum(k_total, 0) * tl.sum(l_total, 0))
    tl.store(values + p, value)
