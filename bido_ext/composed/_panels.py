# SPDX-License-Identifier: Apache-2.0
"""Rows of Gram matrices up to centering, and of the weights of a gradient, from centered features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.reference.gram_stack import accumulation_dtype
from bido_ext.reference.kernel_entries import (
    GRAM,
    LABELS,
    LINEAR,
    entry_of_distance,
    scalar,
    weight_of_entry,
)

#: Rounds of the robust centre: rows farther than the median row are left out of the mean.
ROUNDS = 2


def centered(x: Tensor) -> Tensor:
    """x (n, d) less a centre that outliers do not move, in the dtype that products accumulate in.

    Distances do not change; their digits do. The mean of the nearer half of the rows is a weighted sum, one
    pass over x, where column medians would be a sort.
    """
    x = x.to(accumulation_dtype(x.dtype))
    x = x - x.mean(0, keepdim=True)
    for _ in range(ROUNDS):
        norms = torch.linalg.vector_norm(x, dim=1)
        near = (norms <= norms.median()).to(x.dtype)
        x = x - ((near / near.sum()) @ x)
    return x


@dataclass
class Variable:
    """One variable of a group, ready for its rows.

    Attributes:
        x: Centered features (n, d), labels (n,), or a Gram matrix (n, n).
        parameter: As the contract has it, in the dtype of the Gram matrix.
        kind: Of bido_ext.reference.kernel_entries.
    """

    x: Tensor
    parameter: Tensor
    kind: int
    dtype: torch.dtype

    @staticmethod
    def make(x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype) -> Variable:
        if kind < LABELS:
            x = centered(x)
            if kind == LINEAR:
                x = x - x.mean(0, keepdim=True)
        variable = Variable(x, parameter.to(dtype), kind, dtype)
        if kind < LABELS:
            variable.norms = x.square().sum(1)
        return variable

    norms: Tensor | None = None

    def distances(self, rows: slice) -> Tensor:
        """Squared distances of some rows to all, with exact zeros on the diagonal."""
        x, norms = self.x, self.norms
        assert norms is not None
        D = torch.addmm(norms.expand(rows.stop - rows.start, -1), x[rows], x.T, alpha=-2)
        D += norms[rows, None]
        D.clamp_min_(0)
        own = D.diagonal(rows.start)
        own -= own.clone()  # 0, and the NaN of bad features stays
        return D

    def entries(self, rows: slice) -> Tensor:
        """E (rows, n): K - 1, x x', [y_i = y_j] times a scale, or rows of the matrix given."""
        if self.kind == LABELS:
            same = self.x[rows, None] == self.x[None, :]
            return same.to(self.dtype) * scalar(self.parameter)
        if self.kind == GRAM:
            return self.x[rows].to(self.dtype)
        if self.kind == LINEAR:
            return self.x[rows] @ self.x.T
        return entry_of_distance(self.distances(rows), self.parameter, self.kind)

    def gradient(self, g: Tensor, E: Tensor, rows: slice) -> Tensor:
        """Rows of the gradient of the features, from those of E and of its symmetric gradient g."""
        g = g.to(self.dtype)
        if self.kind == GRAM:
            return g
        if self.kind == LINEAR:
            return 2 * (g @ self.x)
        A = weight_of_entry(g, E, self.parameter, self.kind)
        own = A.diagonal(rows.start)
        own.zero_()  # A_ii cancels; its round-off would drown small weights
        return A @ self.x - A.sum(1, keepdim=True) * self.x[rows]


def panels(n: int, rows: int) -> list[slice]:
    """Consecutive rows 0 .. n, so many at a time."""
    return [slice(i, min(n, i + rows)) for i in range(0, n, max(1, rows))]
