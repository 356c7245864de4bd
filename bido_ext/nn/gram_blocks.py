# SPDX-License-Identifier: Apache-2.0
"""Blocks of Gram matrices and their weights in the gradient: some rows of a variable against some others.

a: [r, d], b: [c, d], both without the same shift, or labels [r], [c]  ->  E = K - 1 (or K): [r, c]
with G = d value / dK, [r, c]:  A = 4 gamma G o K;  gradient of row i = sum over all blocks of A x - (A 1) x_i

What row panels (gathered features) and the ring (features that pass by) share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bido_ext.ops.group import Pairs
from bido_ext.reference.gram_stack import GAUSSIAN, LABELS, LINEAR
from bido_ext.reference.kernel_entries import NOT_SMOOTH, entry_of_distance, scalar, weight_of_entry
from bido_ext.reference.resolution import SMALLEST_MEAN, far_or_extreme


class Rows(NamedTuple):
    """Rows of a variable, ready for products.

    Attributes:
        x: Features (r, d) in the dtype of the Gram matrices, less a shift; or labels (r,).
        norms: Their squares (r,), summed in float64; empty for labels and the linear kernel.
    """

    x: Tensor
    norms: Tensor

    def part(self, rows: slice) -> Rows:
        """Some of the rows."""
        return Rows(self.x[rows], self.norms[rows])


def rows_of(x: Tensor, kind: int, dtype: torch.dtype, shift: Tensor | None = None) -> Rows:
    """A variable without its mean (or a given shift), which changes no distance and saves digits."""
    if kind == LABELS:
        return Rows(x, x[:0])
    x = x.to(dtype)
    x = x - (x.mean(0, keepdim=True) if shift is None else shift)
    if kind == LINEAR:
        return Rows(x, x[:0, 0])
    return Rows(x, torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square().to(dtype))


def gram_block(
    a: Rows, b: Rows, same: slice | None, parameter: Tensor, kind: int, dtype: torch.dtype
) -> Tensor:
    """A block of a Gram matrix up to centering, (r, c).

    Args:
        same: The rows of b that are those of a, if they are among them.
    """
    if kind == LABELS:
        return (a.x[:, None] == b.x[None, :]).to(dtype) * scalar(parameter).to(dtype)
    inner = a.x @ b.x.mT
    if kind == LINEAR:
        return inner
    D = inner.mul_(-2).add_(a.norms[:, None]).add_(b.norms[None, :]).clamp_min_(0)
    if same is not None:
        D[:, same].fill_diagonal_(0)  # a sample is at distance 0 of itself, whatever the round-off
    if kind == GAUSSIAN:  # in place
        return D.mul_(-scalar(parameter).to(dtype)).expm1_()
    return entry_of_distance(D, parameter.to(dtype), kind)


def without_diagonal(E: Tensor, same: slice | None) -> Tensor:
    """E in place with 0 for each sample with itself, as the unbiased estimators take it."""
    if same is not None:
        E[:, same].fill_diagonal_(0)
    return E


def needs_float64(sums: Tensor, kinds: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether a Gram matrix is to be made again in float64, from what all ranks know; on the CPU alone, as in
    one process (bido_ext/_float64.py).

    Args:
        sums: Row sums of every variable [m, n]; NaN where a block was not resolved.
    """
    if dtype == torch.float64 or sums.device.type != "cpu":
        return False
    n = sums.shape[1]
    for own, kind in zip(sums, kinds, strict=True):
        total = float(own.sum())
        small = kind < LABELS and kind != LINEAR and 1 + total / max(n * (n - 1), 1) < SMALLEST_MEAN
        if math.isnan(total) or kind in NOT_SMOOTH or (small and total != 0):
            return True
    return False


def nan_if_unresolved(E: Tensor, kind: int) -> Tensor:
    """0, or NaN where float32 does not hold the block E (r, c) of a Gram matrix; 0-d float64.

    Added to the row sums it reaches the values on all ranks: no number rather than a wrong one.
    """
    bad = far_or_extreme(E, kind) & (E != 0).any()  # nothing but 0 is a dead layer
    return torch.where(bad, torch.nan, 0.0).to(torch.float64)


def weight_block(G: Tensor, E: Tensor, same: slice | None, parameter: Tensor, kind: int) -> Tensor:
    """A of a block, (r, c), of the dtype of G."""
    if kind == LINEAR:
        return 2 * G
    A = weight_of_entry(G, E, parameter.to(G.dtype), kind)
    if same is not None:
        A[:, same].fill_diagonal_(0)
    return A


def partner_weights(grad: Tensor, pairs: Pairs, own: int) -> dict[int, Tensor]:
    """For each partner of a variable the sum of the gradients of their pairs; no value travels."""
    weights: dict[int, Tensor] = {}
    for p, (a, b) in enumerate(zip(*pairs, strict=True)):
        for i, partner in ((a, b), (b, a)):
            if i == own:
                weights[partner] = weights[partner] + grad[p] if partner in weights else grad[p]
    return weights


def gradient_of_gram(
    weights: dict[int, Tensor],
    E: Sequence[Tensor],
    sums: Tensor,
    rows: slice,
    columns: slice = slice(None),
    unbiased: bool = False,
) -> Tensor:
    """sum of weight (L - (l_i + l_j)/n + 1'L1/n^2) over the partners L, in float64; (r, c).

    Unbiased: of weight (L - (l_i + l_j)/(n-2) + 1'L1/((n-1)(n-2))), L without its diagonal, which has to be
    taken from the result as well.

    Args:
        E: The block of every variable.
        sums: Row sums of every variable, float64 [m, n].
        rows, columns: Where the block lies.
    """
    n = sums.shape[1]
    every = sum((weight * sums[q] for q, weight in weights.items()), torch.zeros_like(sums[0]))
    means = every / (n - 2 if unbiased else n)
    G = means.sum() / (n - 1 if unbiased else n) - means[rows, None] - means[None, columns]
    for q, weight in weights.items():
        G += E[q].double() * weight
    return G
