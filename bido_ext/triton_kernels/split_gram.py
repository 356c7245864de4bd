# SPDX-License-Identifier: Apache-2.0
"""Gram matrices of several variables over few samples, grouped: two launches for the whole group.

Few samples give few output blocks but long rows, so the columns are shared among programs; their partial
products are added up in a fixed order by the second launch, which also takes the norms from the diagonal
and writes K - 1 and its mirror image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.entry import (
    ENERGY,
    LAPLACIAN,
    RATIONAL_QUADRATIC,
    diagonal_entry,
    gram_entry,
    pick,
    squared_distance,
)
from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.gram_panel import distances_of_near_pairs, inner_products, row_offsets
from bido_ext.triton_kernels.launch import (
    INTERPRETED,
    INTERPRETER_CONFIG,
    Config,
    multiprocessors,
    on_device,
)
from bido_ext.triton_kernels.resolution import NEAR
from bido_ext.triton_kernels.table import table

FLOAT32_CONFIG = Config(64, 64, 32, 8, 3)
HALF_CONFIG = Config(64, 64, 64, 4, 3)
#: Columns of a program at least: below, the sums cost more than the products.
LEAST_COLUMNS = 256
#: Numbers of a variable in the table of a launch: width, stride, splits, first split, center, kind, slot, index.
COLUMNS = tl.constexpr(8)
#: Programs per multiprocessor to aim at.
WAVES = 2


@triton.jit
def upper_block(t, blocks):
    """Row and column of the t-th block on or above the diagonal, row by row."""
    row = 0
    left = t
    width = blocks
    while left >= width:
        left -= width
        row += 1
        width -= 1
    return row, row + left


@triton.jit
def partial_products_kernel(
    xs, centers, variables, partial, n,
    COUNT: tl.constexpr, CENTERED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(1)
    own = variables + v * COLUMNS
    count = tl.load(own + 2)
    blocks = tl.cdiv(n, BLOCK)
    pairs = blocks * (blocks + 1) // 2
    split = tl.program_id(0) // pairs
    if split >= count:
        return
    block_m, block_n = upper_block(tl.program_id(0) % pairs, blocks)
    x = pick(xs, v, COUNT)
    center = centers + tl.load(own + 4)
    d = tl.load(own)
    stride = tl.load(own + 1)
    steps = tl.cdiv(d, BLOCK_K)
    begin = (steps * split // count) * BLOCK_K
    end = min(d, (steps * (split + 1) // count) * BLOCK_K)
    i_begin = block_m * BLOCK
    j_begin = block_n * BLOCK
    x_i = x + i_begin.to(tl.int64) * stride
    x_j = x + j_begin.to(tl.int64) * stride
    i_offsets = row_offsets(n - i_begin, stride, BLOCK)
    j_offsets = row_offsets(n - j_begin, stride, BLOCK)
    total = inner_products(
        x_i,
        x_j,
        center,
        i_offsets,
        j_offsets,
        begin,
        end,
        d,
        CENTERED,
        PRECISION,
        BLOCK,
        BLOCK,
        BLOCK_K,
    )
    at = partial + (tl.load(own + 3) + split).to(tl.int64) * n * n
    i = i_begin + tl.arange(0, BLOCK)
    j = j_begin + tl.arange(0, BLOCK)
    mask = (i < n)[:, None] & (j < n)[None, :]
    tl.store(at + i[:, None] * n + j[None, :], total, mask=mask)


@triton.jit
def gram_of_products_kernel(
    xs, partial, parameters, out, norms, variables, n, parameter_stride,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(1)
    own = variables + v * COLUMNS
    count = tl.load(own + 2)
    kind = tl.load(own + 5)
    slot = tl.load(own + 6).to(tl.int64)
    parameter = parameters + tl.load(own + 7) * parameter_stride
    gamma = tl.load(parameter).to(tl.float32)
    alpha = gamma
    if kind == RATIONAL_QUADRATIC:
        alpha = tl.load(parameter + 1).to(tl.float32)
    block_m, block_n = upper_block(tl.program_id(0), tl.cdiv(n, BLOCK))
    i = block_m * BLOCK + tl.arange(0, BLOCK)
    j = block_n * BLOCK + tl.arange(0, BLOCK)
    # Entries on or above the diagonal own their mirror image.
    mask = (i[:, None] <= j[None, :]) & (j < n)[None, :]
    base = partial + tl.load(own + 3).to(tl.int64) * n * n
    inner = tl.zeros((BLOCK, BLOCK), tl.float32)
    norm_i = tl.zeros((BLOCK,), tl.float32)
    norm_j = tl.zeros((BLOCK,), tl.float32)
    for s in range(count):
        at = base + s * n * n
        inner += tl.load(at + i[:, None] * n + j[None, :], mask=mask, other=0.0)
        norm_i += tl.load(at + i * (n + 1), mask=i < n, other=0.0)
        norm_j += tl.load(at + j * (n + 1), mask=j < n, other=0.0)
    both = norm_i[:, None] + norm_j[None, :]
    distance = squared_distance(norm_i[:, None], norm_j[None, :], inner)
    if (kind == LAPLACIAN) | (kind == ENERGY):
        near = mask & (distance < both * NEAR) & (i[:, None] != j[None, :])
        x = pick(xs, v, COUNT)
        stride = tl.load(own + 1)
        x_i = x + (block_m * BLOCK).to(tl.int64) * stride
        x_j = x + (block_n * BLOCK).to(tl.int64) * stride
        distance = distances_of_near_pairs(
            distance, near, x_i, x_j, row_offsets(n - block_m * BLOCK, stride, BLOCK),
            row_offsets(n - block_n * BLOCK, stride, BLOCK), tl.load(own), BLOCK, BLOCK,
        )  # fmt: skip
    value = gram_entry(kind, both, inner, distance, gamma, alpha, True)
    exact = diagonal_entry(kind, norm_i[:, None], value, True)
    value = tl.where(i[:, None] == j[None, :], exact, value)
    if block_m == block_n:
        tl.store(norms + slot * n + i, norm_i, mask=i < n)
    target = out + slot * n * n
    tl.store(target + i[:, None] * n + j[None, :], value, mask=mask)
    tl.store(target + j[None, :] * n + i[:, None], value, mask=mask)


def pays(features: Sequence[Features]) -> bool:
    """Whether whole matrices leave multiprocessors without work, so that columns should be shared."""
    block = (INTERPRETER_CONFIG if INTERPRETED else FLOAT32_CONFIG).m
    n = features[0].n
    blocks = triton.cdiv(n, block)
    return blocks * (blocks + 1) // 2 < WAVES * multiprocessors(features[0].x)


def split_grams(
    features: Sequence[Features], parameters: Tensor, out: Tensor, norms: Tensor
) -> None:
    """Fills out[f.slot], (n, n) float32, with K - 1 of each variable, and norms[f.slot], [n]; one launch group,
    one dtype."""
    n, first = features[0].n, features[0]
    config = FLOAT32_CONFIG if first.centered else HALF_CONFIG
    if INTERPRETED:
        config = INTERPRETER_CONFIG
    blocks = triton.cdiv(n, config.m)
    pairs = blocks * (blocks + 1) // 2
    splits = _splits([f.d for f in features], WAVES * multiprocessors(first.x) / pairs)
    partial = torch.empty((sum(splits), n, n), dtype=torch.float32, device=out.device)
    count = len(features)
    rows = [
        (
            f.d, f.x.stride(0), splits[k], sum(splits[:k]),
            int(f.center.storage_offset() - first.center.storage_offset()), f.kind, f.slot, f.index,
        )
        for k, f in enumerate(features)
    ]  # fmt: skip
    variables = table(rows, out.device)
    xs = tuple(f.x for f in features)
    with on_device(out):
        partial_products_kernel[(pairs * max(splits), count)](
            xs, first.center, variables, partial, n, COUNT=count, CENTERED=first.centered,
            PRECISION=input_precision(), BLOCK=config.m, BLOCK_K=config.k, **config.options(),
        )  # fmt: skip
        block = 16
        small = triton.cdiv(n, block)
        gram_of_products_kernel[(small * (small + 1) // 2, count)](
            xs, partial, parameters, out, norms, variables, n, parameters.stride(0), COUNT=count,
            BLOCK=block, num_warps=2,
        )  # fmt: skip


def _splits(widths: Sequence[int], programs: float) -> tuple[int, ...]:
    """Shares of the programs by width; never so many that a share is shorter than LEAST_COLUMNS."""
    total = sum(widths)
    return tuple(
        max(1, min(triton.cdiv(d, LEAST_COLUMNS), round(programs * d / total))) for d in widths
    )
