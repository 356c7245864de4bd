# SPDX-License-Identifier: Apache-2.0
"""Rows I, columns J of one Gram matrix up to centering, in one launch: products, D, K - 1, written once.

The whole matrix (dense) multiplies only blocks on or above the diagonal and writes each with its mirror
image; a panel (streaming) is rectangular.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference.kernel_entries import GAUSSIAN, LINEAR, NOT_SMOOTH
from bido_ext.triton_kernels.entry import (
    ENERGY,
    LAPLACIAN,
    RATIONAL_QUADRATIC,
    diagonal_entry,
    gram_entry,
    round_to_tf32,
    squared_distance,
)
from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.launch import INTERPRETED, Config, on_device, size_class, tuned
from bido_ext.triton_kernels.resolution import NEAR

#: The interpreter multiplies bfloat16 as integers; in float32 the products are the same, exactly.
WIDEN = tl.constexpr(INTERPRETED)
#: The tensor cores truncate what they add up: after this many columns the sum goes to a register.
CHUNK = tl.constexpr(2048)

#: By the precision of the products; the first is the safe one. None spills registers on sm_90 and 100, and
#: the first not on sm_80 either (tests/triton/test_ahead_of_time.py).
CONFIGS = {
    "tf32x3": (
        Config(64, 64, 32, 8, 3),
        Config(64, 64, 32, 8, 2),
        Config(128, 64, 32, 8, 2),
        Config(64, 64, 16, 4, 4),
    ),
    "tf32": (
        Config(64, 64, 32, 4, 3),
        Config(128, 64, 32, 8, 3),
        Config(64, 64, 32, 8, 3),
        Config(128, 128, 32, 8, 3),
    ),
    "half": (
        Config(64, 64, 64, 4, 4),
        Config(128, 128, 64, 8, 3),
        Config(128, 64, 32, 8, 4),
        Config(128, 128, 32, 8, 4),
    ),
}
#: Of kernels that are not smooth, whose epilogue makes near distances again: a thread has room for 16 entries.
#: With 32 Energy spills 8 to 24 bytes, on sm_90 with Triton 3.6 or 3.8 by the precision; with 64 hundreds.
NEAR_CONFIGS = {
    "tf32x3": CONFIGS["tf32x3"][:2],
    "tf32": (Config(64, 64, 32, 8, 3), Config(64, 64, 32, 8, 2)),
    "half": (Config(64, 64, 64, 8, 4), Config(64, 64, 32, 8, 4)),
}
#: Entries of a block that smooth kernels other than the Gaussian have room for: with 128 x 128 they spill 370 to
#: 1120 bytes on sm_90.
LONG_EPILOGUE = 128 * 64
#: Blocks of rows that share their columns in the second-level cache.
GROUP_ROWS = 8


@triton.jit
def row_offsets(row_count, stride, BLOCK: tl.constexpr):
    """Offsets of the rows of a block from its first one, 32 bits wide: 64-bit addresses per element would
    not fit the registers. Rows beyond the last one repeat it; they are never stored."""
    return tl.minimum(tl.arange(0, BLOCK), row_count - 1)[:, None] * stride


@triton.jit
def load_rows(
    x_block, center, offsets, k, d,
    CENTERED: tl.constexpr, TF32: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_K columns of a block of features, centered and rounded as the product takes them."""
    columns = tl.arange(0, BLOCK_K)
    mask = columns < d - k
    a = tl.load(x_block + k + (offsets + columns[None, :]), mask=mask[None, :], other=0.0)
    if WIDEN:
        a = a.to(tl.float32)
    if CENTERED:
        a -= tl.load(center + k + columns, mask=mask, other=0.0)[None, :]
    if TF32:
        a = round_to_tf32(a)
    return a


@triton.jit
def inner_products(
    x_i, x_j, center, i_offsets, j_offsets, begin, end, d,
    CENTERED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of two blocks of rows, over columns begin..end."""
    TF32: tl.constexpr = PRECISION == "tf32" and CENTERED
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for chunk in range(begin, end, CHUNK):
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(chunk, min(end, chunk + CHUNK), BLOCK_K):
            a = load_rows(x_i, center, i_offsets, k, d, CENTERED, TF32, BLOCK_K)
            b = load_rows(x_j, center, j_offsets, k, d, CENTERED, TF32, BLOCK_K)
            acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION)
        total += acc
    return total


@triton.jit
def distances_of_near_pairs(
    distance, near, x_i, x_j, i_offsets, j_offsets, d, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Squared distances, those of ``near`` pairs made again from differences, which do not cancel."""
    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
        exact = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        j_across = tl.trans(j_offsets)
        for k in range(d):
            a = tl.load(x_i + k + i_offsets).to(tl.float32)
            b = tl.load(x_j + k + j_across).to(tl.float32)
            exact += (a - b) * (a - b)
        distance = tl.where(near, exact, distance)
    return distance


@triton.jit
def gram_panel_kernel(
    x, center, norms, parameter, out, n, d, x_stride, row_begin, row_count, column_begin, column_count,
    out_stride,
    KIND: tl.constexpr, MINUS_ONE: tl.constexpr, CENTERED: tl.constexpr, PRECISION: tl.constexpr,
    SYMMETRIC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    blocks_m = tl.cdiv(row_count, BLOCK_M)
    blocks_n = tl.cdiv(column_count, BLOCK_N)
    pid = tl.program_id(0)
    first = pid // (GROUP * blocks_n) * GROUP
    height = min(blocks_m - first, GROUP)
    within = pid % (GROUP * blocks_n)
    block_m = first + within % height
    block_n = within // height
    if SYMMETRIC:
        # All of the block below the diagonal: its mirror image is written instead.
        if (block_n + 1) * BLOCK_N <= block_m * BLOCK_M:
            return
    i_begin = block_m * BLOCK_M
    j_begin = block_n * BLOCK_N
    x_i = x + (row_begin + i_begin).to(tl.int64) * x_stride
    x_j = x + (column_begin + j_begin).to(tl.int64) * x_stride
    i_offsets = row_offsets(row_count - i_begin, x_stride, BLOCK_M)
    j_offsets = row_offsets(column_count - j_begin, x_stride, BLOCK_N)
    total = inner_products(
        x_i,
        x_j,
        center,
        i_offsets,
        j_offsets,
        0,
        d,
        d,
        CENTERED,
        PRECISION,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    i = tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_N)
    row_mask = i < row_count - i_begin
    column_mask = j < column_count - j_begin
    norm_i = tl.load(norms + row_begin + i_begin + i, mask=row_mask, other=0.0)[:, None]
    norm_j = tl.load(norms + column_begin + j_begin + j, mask=column_mask, other=0.0)[None, :]
    gamma = tl.load(parameter).to(tl.float32)
    alpha = gamma
    if KIND == RATIONAL_QUADRATIC:
        alpha = tl.load(parameter + 1).to(tl.float32)
    to_diagonal = (column_begin + j_begin + j)[None, :] - (row_begin + i_begin + i)[:, None]
    distance = squared_distance(norm_i, norm_j, total)
    if (KIND == LAPLACIAN) | (KIND == ENERGY):
        near = (distance < (norm_i + norm_j) * NEAR) & (to_diagonal != 0)
        distance = distances_of_near_pairs(
            distance, near, x_i, x_j, i_offsets, j_offsets, d, BLOCK_M, BLOCK_N
        )
    value = gram_entry(KIND, norm_i + norm_j, total, distance, gamma, alpha, MINUS_ONE)
    value = tl.where(to_diagonal == 0, diagonal_entry(KIND, norm_i, value, MINUS_ONE), value)
    mask = row_mask[:, None] & column_mask[None, :]
    if SYMMETRIC:
        # One owner per entry, so that both halves hold the same bits.
        mask = mask & (to_diagonal >= 0)
        mirror = out + j_begin.to(tl.int64) * out_stride + i_begin
        tl.store(mirror + (j[None, :] * out_stride + i[:, None]), value, mask=mask)
    target = out + i_begin.to(tl.int64) * out_stride + j_begin
    tl.store(target + (i[:, None] * out_stride + j[None, :]), value, mask=mask)


def configs_for(kind: int, precision: str) -> Sequence[Config]:
    """Those whose epilogue of that kernel fits into registers."""
    if kind in NOT_SMOOTH:
        return NEAR_CONFIGS[precision]
    able = CONFIGS[precision]
    if kind in (GAUSSIAN, LINEAR):
        return able
    return [config for config in able if config.m * config.n <= LONG_EPILOGUE]


def gram_panel(
    f: Features, norms: Tensor, parameter: Tensor, out: Tensor, row_begin: int = 0,
    column_begin: int = 0, minus_one: bool = True,
) -> None:  # fmt: skip
    """Fills ``out`` (rows, columns) with that part of the Gram matrix; the whole matrix uses its symmetry."""
    rows, columns = out.shape
    symmetric = rows == columns == f.n
    precision = input_precision()

    def run(config: Config) -> None:
        blocks = triton.cdiv(rows, config.m) * triton.cdiv(columns, config.n)
        with on_device(f.x):
            gram_panel_kernel[(blocks,)](
                f.x, f.center, norms, parameter, out, f.n, f.d, f.x.stride(0), row_begin, rows,
                column_begin, columns, out.stride(0), KIND=f.kind, MINUS_ONE=minus_one,
                CENTERED=f.centered, PRECISION=precision, SYMMETRIC=symmetric, BLOCK_M=config.m,
                BLOCK_N=config.n, BLOCK_K=config.k, GROUP=GROUP_ROWS, **config.options(),
            )  # fmt: skip

    candidates = configs_for(f.kind, precision if f.centered else "half")
    key = (
        str(f.x.dtype),
        f.kind,
        minus_one,
        precision,
        symmetric,
        size_class(rows),
        size_class(columns),
        size_class(f.d),
    )
    run(tuned("gram_panel", candidates, run, key, f.x, out))
