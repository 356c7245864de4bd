# SPDX-License-Identifier: Apache-2.0
"""The loop of products whose operands the bulk copy engine (TMA) carries, and its block shapes."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from bido_ext.triton_kernels.launch import INTERPRETED, Config

#: The interpreter multiplies bfloat16 as integers; in float32 the products are the same, exactly.
WIDEN = tl.constexpr(INTERPRETED)
#: By the bytes of an operand; the first is the safe one. Not every n fills the last round of 128 x 256 tiles.
#: With n a multiple of 16 none spills registers on sm_90 and 100 (tests/triton/test_ahead_of_time.py).
CONFIGS = {
    4: (Config(128, 256, 32, 8, 4), Config(128, 128, 32, 8, 4)),
    2: (Config(128, 256, 64, 8, 4), Config(128, 128, 64, 8, 4)),
}
INTERPRETER_CONFIG = Config(16, 32, 32, 1, 1)
#: Columns of a tile that its epilogue has in registers beside the products.
EPILOGUE = 16


@triton.jit
def add_products(
    acc, left_rows, right_rows, left_count, right_count, i_begin, j_begin, begin, end, steps,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """acc + a tile of left right', over steps begin .. end of all terms. LEFT and RIGHT hold the numbers of the
    parts that the terms multiply, two bits each; a part has so many rows, and a term so many steps."""
    for step in range(begin, end):
        term = step // steps
        k = (step - term * steps) * BLOCK_K
        a = left_rows.load([((LEFT >> (2 * term)) & 3) * left_count + i_begin, k])
        b = right_rows.load([((RIGHT >> (2 * term)) & 3) * right_count + j_begin, k])
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, tl.trans(b), acc, input_precision="tf32")
    return acc


@triton.jit
def columns_of(acc, part: tl.constexpr, PARTS: tl.constexpr):
    """The part-th of PARTS (a power of two) equal ranges of columns of a tile in registers."""
    if PARTS == 1:
        found = acc
    else:
        ROWS: tl.constexpr = acc.shape[0]
        HALF: tl.constexpr = acc.shape[1] // 2
        low, high = tl.split(tl.permute(tl.reshape(acc, (ROWS, 2, HALF)), (0, 2, 1)))
        if part * 2 < PARTS:
            found = columns_of(low, part, PARTS // 2)
        else:
            found = columns_of(high, part - PARTS // 2, PARTS // 2)
    return found


def carried(rows: Tensor, block: int, depth: int) -> TensorDescriptor:
    """What the engine has to know of a matrix whose blocks it copies."""
    return TensorDescriptor(rows, list(rows.shape), list(rows.stride()), [block, depth])


def numbers_of(terms: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """LEFT and RIGHT of the parts that terms multiply."""
    left, right = (
        sum(term[side] << (2 * place) for place, term in enumerate(terms)) for side in (0, 1)
    )
    return left, right
