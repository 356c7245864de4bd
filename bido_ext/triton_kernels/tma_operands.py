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

from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.launch import on_device
from bido_ext.triton_kernels.norms import centered_block, squared_norms

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
        return terms_of(self.parts)


def terms_of(parts: int) -> tuple[tuple[int, int], ...]:
    """Parts of the left and of the right operand that are multiplied, the smallest first."""
    return TERMS if parts == PARTS else ((0, 0),)


@triton.jit
def transposed_kernel(
    x, center, copy, n, d, x_stride, copy_stride,
    TF32: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (rows < n)[:, None] & (columns < d)[None, :]
    x_rows = x + rows.to(tl.int64)[:, None] * x_stride
    left = tl.trans(centered_block(x_rows, center, columns, mask, d, True, TF32))
    target = copy + columns.to(tl.int64)[:, None] * copy_stride + rows[None, :]
    for part in tl.static_range(PARTS):
        value = left.to(copy.dtype.element_ty)
        tl.store(target + part * tl.cast(d, tl.int64) * copy_stride, value, mask=tl.trans(mask))
        left -= value.to(tl.float32)


def product_parts() -> tuple[int, torch.dtype]:
    """Parts of a float32 operand, and their dtype."""
    return (1, torch.float32) if input_precision() == "tf32" else (PARTS, torch.bfloat16)


def transposed_of(f: Features) -> Tensor:
    """Centered features of any dtype, transposed, in the parts of ``product_parts``: (parts d, n)."""
    parts, dtype = product_parts()
    copy = beginning_well(parts * f.d, f.n, dtype, f.x.device)
    block = 64
    with on_device(f.x):
        transposed_kernel[(triton.cdiv(f.n, block), triton.cdiv(f.d, block))](
            f.x, f.center, copy, f.n, f.d, f.x.stride(0), copy.stride(0), TF32=parts == 1,
            PARTS=parts, BLOCK=block,
        )  # fmt: skip
    return copy


def beginning_well(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty matrix whose rows begin at multiples of 16 bytes; what lies between them is never read."""
    per_row = BYTES // dtype.itemsize
    stride = triton.cdiv(columns, per_row) * per_row
    return torch.empty((rows, stride), dtype=dtype, device=device)[:, :columns]


def operands_of(f: Features, norms: Tensor) -> Operands:
    """Centers and rounds a variable; ``norms``, float32 [n], is filled."""
    tf32 = f.centered and input_precision() == "tf32"
    parts = PARTS if f.centered and not tf32 else 1
    dtype = torch.bfloat16 if parts == PARTS else f.x.dtype
    rows, written = f.x, 0
    if f.centered or not _carried(f.x):
        rows, written = beginning_well(parts * f.n, f.d, dtype, f.x.device), parts
    squared_norms(f, norms, rows, written)
    return Operands(rows, norms, parts)


def _carried(x: Tensor) -> bool:
    """Whether the copy engine takes the rows where they lie."""
    return x.data_ptr() % BYTES == 0 and x.stride(0) * x.element_size() % BYTES == 0
