# SPDX-License-Identifier: Apache-2.0
"""Rows of Gram matrices up to centering, and of the weights of a gradient, from centered features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.composed._fused import fused_entries, fused_weights, is_fused
from bido_ext.reference.gaussian_gram import distances_of_differences
from bido_ext.reference.gram_stack import accumulation_dtype
from bido_ext.reference.kernel_entries import (
    GRAM,
    LABELS,
    LINEAR,
    NOT_SMOOTH,
    entry_of_distance,
    scalar,
    weight_of_entry,
)

#: Rounds of the robust centre: rows farther than the median row are left out of the mean.
ROUNDS = 2

#: In round-offs of |x_i|^2 + |x_j|^2: smaller distances are 0, so that of equal samples the Gram matrix has
#: equal rows, too: nhsic with a small ridge makes much of the difference. product_epilogue.py has the same.
LOST_DISTANCE = 4

#: A product of two matrices, of operands whose squared norms matter.
Multiply = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Variable:
    """One variable of a group, ready for its rows.

    Attributes:
        x: Features (n, d), labels (n,), or a Gram matrix (n, n).
        parameter: As the contract has it, in the dtype of the Gram matrix.
        kind: Of bido_ext.reference.kernel_entries.
        dtype: Of the Gram matrix.
        multiply: Makes the products of features.
        chunk: Rows of features that are centered at a time; n: all, once.
    """

    x: Tensor
    parameter: Tensor
    kind: int
    dtype: torch.dtype
    multiply: Multiply = torch.mm
    chunk: int = 0
    centre: Tensor | None = None
    norms: Tensor | None = None
    whole: Tensor | None = None

    @staticmethod
    def make(
        x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype, multiply: Multiply = torch.mm,
        chunk: int = 0,
    ) -> Variable:  # fmt: skip
        """Args: chunk: 0 for all rows."""
        n = x.shape[0]
        v = Variable(x, parameter.to(dtype), kind, dtype, multiply, min(chunk, n) or n)
        if kind < LABELS:
            v._center()
        return v

    def _center(self) -> None:
        """A centre that outliers do not move; distances do not change, their digits do.

        The mean of the nearer half of the rows is a weighted sum, one pass over x, where column medians would
        be a sort. Of a linear kernel the mean of all comes after it.
        """
        x, accumulated = self.x, accumulation_dtype(self.x.dtype)
        n = x.shape[0]
        all_rows = panels(n, self.chunk)
        self.centre = x[:1].new_zeros((1, x.shape[1]), dtype=accumulated)
        everyone = torch.ones((n,), dtype=accumulated, device=x.device)
        weights = [everyone] + [None] * ROUNDS + [everyone] * (self.kind == LINEAR)
        for weight in weights:
            if weight is None:
                norms = torch.cat(
                    [torch.linalg.vector_norm(self.rows(rows), dim=1) for rows in all_rows]
                )
                weight = (norms <= norms.median()).to(accumulated)
            share = weight / weight.sum()
            shift = [share[None, rows] @ self.rows(rows) for rows in all_rows]
            self.centre = self.centre + (shift[0] if len(shift) == 1 else torch.stack(shift).sum(0))
        if self.chunk >= n:
            self.whole = self.rows(slice(0, n))
        self.norms = torch.cat([self.rows(rows).square().sum(1) for rows in all_rows])

    def rows(self, rows: slice) -> Tensor:
        """Centered features of some rows, in the dtype that products accumulate in."""
        if self.whole is not None:
            return self.whole[rows]
        assert self.centre is not None
        return self.x[rows].to(self.centre.dtype) - self.centre

    def products(self, rows: slice) -> Tensor:
        """Inner products of some rows with all, (rows, n)."""
        n, left = self.x.shape[0], self.rows(rows)
        if self.chunk >= n:
            return self.multiply(left, self.rows(slice(0, n)).T)
        found = left.new_empty((left.shape[0], n))
        for part in panels(n, self.chunk):
            found[:, part] = self.multiply(left, self.rows(part).T)
        return found

    def weighted(self, A: Tensor) -> Tensor:
        """A x of the centered features, (rows, d)."""
        n = self.x.shape[0]
        if self.chunk >= n:
            return self.multiply(A, self.rows(slice(0, n)))
        total = A.new_zeros((A.shape[0], self.x.shape[1]))
        for part in panels(n, self.chunk):
            total += self.multiply(A[:, part], self.rows(part))
        return total

    def distances(self, rows: slice) -> Tensor:
        """Squared distances of some rows to all, with exact zeros on the diagonal."""
        assert self.norms is not None
        if self.kind in NOT_SMOOTH:  # near rows weigh most: from differences, 0 of equal rows
            left, all_rows = self.rows(rows), panels(self.x.shape[0], self.chunk)
            return torch.cat([distances_of_differences(left, self.rows(p)) for p in all_rows], 1)
        both = self.norms + self.norms[rows, None]
        D = self.products(rows).mul_(-2).add_(both)
        lost = both.mul_(LOST_DISTANCE * torch.finfo(D.dtype).eps) >= D
        D.masked_fill_(lost & D.isfinite(), 0.0)
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
            return self.products(rows)
        if is_fused(self.norms) and self.kind not in NOT_SMOOTH:
            assert self.norms is not None
            return fused_entries(self.products(rows), self.norms, rows, self.parameter, self.kind)
        return entry_of_distance(self.distances(rows), self.parameter, self.kind)

    def gradient(self, g: Tensor, E: Tensor, rows: slice) -> Tensor:
        """Rows of the gradient of the features, from those of E and of its symmetric gradient g."""
        g = g.to(self.dtype)
        if self.kind == GRAM:
            return g
        if self.kind == LINEAR:
            return 2 * self.weighted(g)
        if is_fused(self.norms):
            A = fused_weights(g, E, rows, self.parameter, self.kind)
        else:
            A = weight_of_entry(g, E, self.parameter, self.kind)
            A.diagonal(rows.start).zero_()  # A_ii cancels; its round-off would drown small weights
        return self.weighted(A) - A.sum(1, keepdim=True) * self.rows(rows)


def panels(n: int, rows: int) -> list[slice]:
    """Consecutive rows 0 .. n, so many at a time."""
    return [slice(i, min(n, i + rows)) for i in range(0, n, max(1, rows))]
