# SPDX-License-Identifier: Apache-2.0
"""Rows of (A - diag(A 1)) x of one variable, or A x, from operands that the bulk copy engine (TMA) carries.

Weights come in the parts in which they were written, features transposed: both lie along the sum then, as TF32
products want it (:mod:`bido_ext.triton_kernels.tma_operands`).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference.kernel_entries import LINEAR
from bido_ext.triton_kernels.entry import round_to_tf32
from bido_ext.triton_kernels.features import Features
from bido_ext.triton_kernels.launch import INTERPRETED, Config, on_device, size_class, tuned
from bido_ext.triton_kernels.tma_operands import terms_of
from bido_ext.triton_kernels.tma_product import (
    CONFIGS,
    EPILOGUE,
    INTERPRETER_CONFIG,
    add_products,
    carried,
    columns_of,
    numbers_of,
)


@triton.jit
def tma_weighted_kernel(
    weights, x_columns, totals, x, center, out, rows, d, row_begin, steps, x_stride,
    SUBTRACT: tl.constexpr, TF32: tl.constexpr, TERMS: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """SUBTRACT: the row sums of the weights times the row itself, as the product takes it."""
    # Programs that run together share their columns.
    blocks_m = tl.cdiv(rows, BLOCK_M)
    i_begin = tl.program_id(0) % blocks_m * BLOCK_M
    j_begin = tl.program_id(0) // blocks_m * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = add_products(
        acc, weights, x_columns, rows, d, i_begin, j_begin, 0, TERMS * steps, steps, LEFT, RIGHT,
        BLOCK_K,
    )  # fmt: skip
    i = tl.arange(0, BLOCK_M)[:, None]
    j = tl.arange(0, WIDTH)[None, :]
    total = tl.load(totals + i_begin + i, mask=i < rows - i_begin, other=0.0)
    first = tl.cast(row_begin + i_begin, tl.int64)
    own_rows = x + first * x_stride + j_begin
    target = out + first * d + j_begin
    for part in tl.static_range(BLOCK_N // WIDTH):
        value = columns_of(acc, part, BLOCK_N // WIDTH)
        column = part * WIDTH + j
        mask = (i < rows - i_begin) & (column < d - j_begin)
        if SUBTRACT:
            own = tl.load(own_rows + (i * x_stride + column), mask=mask, other=0.0).to(tl.float32)
            own -= tl.load(center + j_begin + column, mask=column < d - j_begin, other=0.0)
            if TF32:
                own = round_to_tf32(own)
            value -= total * own
        tl.store(target + (i * d + column), value.to(out.dtype.element_ty), mask=mask)


def tma_weighted_product(
    weights: Tensor, totals: Tensor, columns: Tensor, f: Features, out: Tensor, row_begin: int
) -> None:
    """Fills rows row_begin .. of ``out``, (n, d), contiguous, in the dtype of the gradient.

    Args:
        weights: (parts, rows, n); rows begin at multiples of 16 bytes.
        totals: Row sums of the weights, float32 [rows].
        columns: The transposed features, (parts d, n), as ``transposed_of`` makes them.
    """
    parts, rows, n = weights.shape

    def run(config: Config) -> None:
        launch_weighted(weights, totals, columns, f, out, row_begin, config)

    key = (
        str(f.x.dtype),
        parts,
        f.kind == LINEAR,
        size_class(rows),
        size_class(n),
        size_class(f.d),
    )
    written = out[row_begin : row_begin + rows]
    candidates = CONFIGS[weights.element_size()]
    best = (
        INTERPRETER_CONFIG
        if INTERPRETED
        else tuned("tma_weighted_product", candidates, run, key, f.x, written)
    )
    run(best)


def launch_weighted(
    weights: Tensor, totals: Tensor, columns: Tensor, f: Features, out: Tensor, row_begin: int,
    config: Config,
) -> None:  # fmt: skip
    """With one block shape."""
    parts, rows, n = weights.shape
    terms = terms_of(parts)
    left, right = numbers_of(terms)
    with on_device(f.x):
        tma_weighted_kernel[(triton.cdiv(rows, config.m) * triton.cdiv(f.d, config.n),)](
            carried(weights.flatten(0, 1), config.m, config.k), carried(columns, config.n, config.k),
            totals, f.x, f.center, out, rows, f.d, row_begin, triton.cdiv(n, config.k),
            f.x.stride(0), SUBTRACT=f.kind != LINEAR, TF32=parts == 1, TERMS=len(terms), LEFT=left,
            RIGHT=right, BLOCK_M=config.m, BLOCK_N=config.n, BLOCK_K=config.k,
            WIDTH=min(EPILOGUE, config.n), **config.options(),
        )  # fmt: skip
