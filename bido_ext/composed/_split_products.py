# SPDX-License-Identifier: Apache-2.0
"""Products of float32 accuracy on tensor cores: each operand is the sum of three of half the bits.

An x of 24 bits is h + m + l of 8 bits each, bfloat16 with the range of float32. Of the nine products of parts
six matter, those of l with m or l are below the last bit; all are exact and summed in float32. On tensor cores
six in bfloat16 take the time of three in TF32, whose parts of 11 bits hold 22. And they need no switch:
PyTorch allows TF32 for a whole process, so that a call of ours would let another thread's products lose digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Parts of the left and of the right operand that are multiplied, the smallest first.
TERMS = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


def split_product(A: Tensor, B: Tensor) -> Tensor:
    """A B of float32 matrices; of other dtypes a plain product."""
    if A.dtype != torch.float32:
        return A @ B
    left, right = parts(A), parts(B)
    total = A.new_zeros((A.shape[0], B.shape[1]))
    for i, j in TERMS:
        if A.is_cuda:
            total = torch.addmm(total, left[i], right[j], out_dtype=torch.float32)
        else:  # the same terms, exact in float32 as well
            total.addmm_(left[i].float(), right[j].float())
    return total


def parts(x: Tensor) -> list[Tensor]:
    """Three of bfloat16 whose sum is x but for 2^-24 of it; NaN where x is not finite."""
    found = []
    for _ in range(3):
        part = x.to(torch.bfloat16)
        found.append(part)
        x = x - part
    return found
