# SPDX-License-Identifier: Apache-2.0
"""What a step minimises, of the values of its terms, and the numbers that a log gets of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class DependenceTerms(NamedTuple):
    """The terms of one layer: ``x`` is d(X, Z_j) and ``y`` is d(Z_j, Y).

    Both are 0-d tensors without weights and without gradient, on the features' device.
    """

    x: Tensor
    y: Tensor


def weighted_sum(
    values: Tensor, lambda_x: float, lambda_y: float, warmup: Tensor | None = None
) -> Tensor:
    """The objective.

    Args:
        values: d(X, Z_j) of every layer, then d(Z_j, Y); [2 layers].
        warmup: Factor on all of it.
    """
    d_x, d_y = values.chunk(2)
    total = values.new_zeros(())
    # A term without weight is still reported, but does not touch the value or a finite gradient.
    if lambda_x:
        total = total + lambda_x * d_x.sum()
    if lambda_y:
        total = total - lambda_y * d_y.sum()
    return total if warmup is None else total * warmup


def values_of_one_sample(inputs: list[Tensor]) -> Tensor:
    """Zeros for the 2 layers pairs of (X, Z_1 .. Z_M, Y): HKH of a 1 x 1 Gram matrix is 0.

    In the graph of every layer, so that a backward from the term alone finds one; the gradient is 0, also of
    features that are not finite.
    """
    zero = torch.stack([z[:0].sum(dtype=torch.float64) for z in inputs[1:-1]])
    return torch.cat([zero, zero])


def named_numbers(total: Tensor, terms: Mapping[str, DependenceTerms]) -> dict[str, float]:
    """Of one message from the device. Names are such that TensorBoard, MLflow and the others take them."""
    named = {"bido": total}
    named |= {f"bido_x/{layer}": term.x for layer, term in terms.items()}
    named |= {f"bido_y/{layer}": term.y for layer, term in terms.items()}
    numbers = torch.stack([value.double() for value in named.values()]).tolist()
    return dict(zip(named, numbers, strict=True))
