# SPDX-License-Identifier: Apache-2.0
"""Squared norms of the rows of a variable as products take them: centered, and rounded where products are in TF32."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.entry import round_to_tf32
from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.launch import on_device


@triton.jit
def centered_block(x_rows, center, columns, mask, d, CENTERED: tl.constexpr, TF32: tl.constexpr):
    """Some columns of some rows in float32, as a product takes them."""
    a = tl.load(x_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    if CENTERED:
        a -= tl.load(center + columns, mask=columns < d, other=0.0)[None, :]
    if TF32:
        a = round_to_tf32(a)
    return a


@triton.jit
def squared_norms_kernel(
    x, center, norms, copy, n, d, x_stride, copy_stride,
    CENTERED: tl.constexpr, TF32: tl.constexpr, PARTS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """And a copy of the rows in PARTS parts of its dtype, each beginning with what those before it have left;
    0: none."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_rows = x + rows.to(tl.int64)[:, None] * x_stride
    copy_rows = copy + rows.to(tl.int64)[:, None] * copy_stride
    next_part = tl.cast(n, tl.int64) * copy_stride
    sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for k in range(0, d, BLOCK_K):
        columns = k + tl.arange(0, BLOCK_K)
        mask = (rows < n)[:, None] & (columns < d)[None, :]
        a = centered_block(x_rows, center, columns, mask, d, CENTERED, TF32)
        sums += a * a
        left = a
        for part in tl.static_range(PARTS):
            value = left.to(copy.dtype.element_ty)
            tl.store(copy_rows + part * next_part + columns[None, :], value, mask=mask)
            left -= value.to(tl.float32)
    tl.store(norms + rows, tl.sum(sums, 1), mask=rows < n)


def squared_norms(f: Features, norms: Tensor, copy: Tensor | None = None, parts: int = 0) -> Tensor:
    """|x_i - center|^2, float32 [n], of the operands exactly as the product takes them; fills ``norms``.

    Args:
        copy: To be filled with the operands: (parts n, d), contiguous rows, the parts below each other.
    """
    BLOCK_M, BLOCK_K = 8, 256
    target = f.x if copy is None else copy
    with on_device(f.x):
        squared_norms_kernel[(triton.cdiv(f.n, BLOCK_M),)](
            f.x, f.center, norms, target, f.n, f.d, f.x.stride(0), target.stride(0),
            CENTERED=f.centered, TF32=f.centered and input_precision() == "tf32", PARTS=parts,
            BLOCK_M=BLOCK_M, BLOCK_K=BLOCK_K,
        )  # fmt: skip
    return norms
