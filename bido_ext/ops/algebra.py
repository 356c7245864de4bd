# SPDX-License-Identifier: Apache-2.0
"""What the n x n algebra of nhsic and coco shares: batches, partners, centering, sums."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

#: Up to this n the n x n algebra of all variables is batched; beyond, one after the other saves memory.
BATCHED_UP_TO = 256


def batches(n: int, count: int, up_to: int = BATCHED_UP_TO) -> list[slice]:
    """``count`` matrices n x n: all of them at once up to ``up_to`` samples, else one by one."""
    step = max(count, 1) if n <= up_to else 1
    return [slice(i, min(count, i + step)) for i in range(0, count, step)]


def partners_of(first: Sequence[int], second: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The variables whose factor the gradient of a wanted one needs."""
    pairs = [*zip(first, second, strict=True), *zip(second, first, strict=True)]
    return sorted({b for a, b in pairs if a in wanted})


def center_stack(stack: Tensor, dtype: torch.dtype) -> Tensor:
    """H K H of symmetric matrices (..., n, n), a new tensor of ``dtype``."""
    K = stack.to(dtype, copy=True)
    means = K.mean(-1, keepdim=True)
    K.sub_(means)
    return K.sub_((means - means.mean(-2, keepdim=True)).mT)


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of two matrices, summed in float64."""
    if a.dtype == torch.float64:
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return (a * b).sum(dtype=torch.float64)


def partner_sum(
    grad: Tensor, first: Sequence[int], second: Sequence[int], wanted: Sequence[int],
    partners: Sequence[int], kept: Tensor,
) -> Tensor:  # fmt: skip
    """For each wanted variable the sum of grad_p * kept_b over its pairs p with partner b; (w, n, n)."""
    sides = [(own, partner) for own in wanted for partner in partners]
    coefficients = gradients_of_sides(grad, first, second, sides).view(len(wanted), -1)
    return (coefficients.to(kept.dtype) @ kept.flatten(1)).view(len(wanted), *kept.shape[1:])


def gradients_of_sides(
    grad: Tensor, first: Sequence[int], second: Sequence[int], sides: Sequence[tuple[int, int]]
) -> Tensor:
    """For each side (a variable, its partner) the sum of grad_p over the pairs p of the two; (sides,)."""
    # A traced graph keeps its own: what is kept here would be a tensor of another trace.
    incidence = _incidence if type(grad) is Tensor else _incidence.__wrapped__
    pairs = tuple(zip(first, second, strict=True))
    return incidence(pairs, tuple(sides), grad.device) @ grad.double()


@functools.lru_cache(maxsize=64)
def _incidence(
    pairs: tuple[tuple[int, int], ...], sides: tuple[tuple[int, int], ...], device: torch.device
) -> Tensor:
    """How often a pair is a side, (sides, pairs): one of a variable with itself twice. Kept on the device,
    so that only the first step copies it there."""
    counts = [[(pair == side) + (pair[::-1] == side) for pair in pairs] for side in sides]
    shape = (len(sides), len(pairs))
    return torch.tensor(counts, dtype=torch.float64).reshape(shape).to(device)
