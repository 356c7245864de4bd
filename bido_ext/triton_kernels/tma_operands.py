# SPDX-License-Identifier: Apache-2.0
"""Features centered and rounded once, as the bulk copy engine (TMA) carries them into products.

A pass of its own writes what every tile of a product would otherwise make anew: float32 features in TF32, or as
three bfloat16 parts whose six products have float32 accuracy (bido_ext/composed/_split_products.py); half
precision as it is. Parts lie below each other: rows part * n .. of one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.entry import round_to_tf32
from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.launch import on_device

#: What a row has to be a multiple of, and its beginning, for the engine to take it.
BYTES = 16
#: Of float32 features that stay float32; and their products, the smallest first.
PARTS = 3
TERMS = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


@dataclass(frozen=True)
class Operands:
    """One variable, ready to be multiplied.

    Attributes:
        rows: (parts n, d), whose rows begin at multiples of 16 bytes.
        norms: |x_i - center|^2, float32 [n], of what is multiplied.
        parts: 1, or 3.
    """

    rows: Tensor
    norms: Tensor
    parts: int

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """Parts of the left and of the right operand that are multiplied, the smallest first."""
        return TERMS if self.parts == PARTS else ((0, 0),)


@triton.jit
def operands_kernel(
    x, center, rows_out, norms, n, d, x_stride, out_stride,
    CENTERED: tl.constexpr, TF32: tl.constexpr, WRITTEN: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """WRITTEN: parts that are written; 0: norms alone."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_rows = x + rows.to(tl.int64)[:, None] * x_stride
    out = rows_out + rows.to(tl.int64)[:, None] * out_stride
    next_part = n.to(tl.int64) * out_stride
    sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for k in range(0, d, BLOCK_K):
        columns = k + tl.arange(0, BLOCK_K)
        mask = (rows < n)[:, None] & (columns < d)[None, :]
        a = tl.load(x_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        if CENTERED:
            a -= tl.load(center + columns, mask=columns < d, other=0.0)[None, :]
        if TF32:
            a = round_to_tf32(a)
        sums += a * a
        left = a
        for part in tl.static_range(WRITTEN):
            value = left.to(rows_out.dtype.element_ty)
            tl.store(out + part * next_part + columns[None, :], value, mask=mask)
            left -= value.to(tl.float32)
    tl.store(norms + rows, tl.sum(sums, 1), mask=rows < n)


def operands_of(f: Features, norms: Tensor) -> Operands:
    """Centers and rounds a variable; ``norms``, float32 [n], is filled."""
    tf32 = f.centered and input_precision() == "tf32"
    parts = PARTS if f.centered and not tf32 else 1
    dtype = torch.bfloat16 if parts == PARTS else f.x.dtype
    rows, written = f.x, 0
    if f.centered or not _carried(f.x):
        per_row = BYTES // dtype.itemsize
        stride = triton.cdiv(f.d, per_row) * per_row
        # Columns beyond d are never read.
        rows = torch.empty((parts * f.n, stride), dtype=dtype, device=f.x.device)[:, : f.d]
        written = parts
    BLOCK_M, BLOCK_K = 8, 256
    with on_device(f.x):
        operands_kernel[(triton.cdiv(f.n, BLOCK_M),)](
            f.x, f.center, rows, norms, f.n, f.d, f.x.stride(0), rows.stride(0),
            CENTERED=f.centered, TF32=tf32, WRITTEN=written, BLOCK_M=BLOCK_M, BLOCK_K=BLOCK_K,
        )  # fmt: skip
    return Operands(rows, norms, parts)


def _carried(x: Tensor) -> bool:
    """Whether the copy engine takes the rows where they lie."""
    return x.data_ptr() % BYTES == 0 and x.stride(0) * x.element_size() % BYTES == 0
