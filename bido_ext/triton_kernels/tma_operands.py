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
from torch import Tensor

from bido_ext.triton_kernels.features import Features, input_precision
from bido_ext.triton_kernels.norms import squared_norms

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
    squared_norms(f, norms, rows, written)
    return Operands(rows, norms, parts)


def _carried(x: Tensor) -> bool:
    """Whether the copy engine takes the rows where they lie."""
    return x.data_ptr() % BYTES == 0 and x.stride(0) * x.element_size() % BYTES == 0
