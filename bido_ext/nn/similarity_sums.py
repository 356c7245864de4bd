# SPDX-License-Identifier: Apache-2.0
"""HSIC of all layers with all layers of a batch, and its sums over batches.

features: m times [n, d_v], k times [n, d_w]  ->  products [m, k], own [m], other_own [k], float64
    unbiased: <U(K), U(L)> / (n (n-3)), U(K)_ij = K_ij - r_i/(n-2) - r_j/(n-2) + t/((n-1)(n-2)), U(K)_ii = 0
    biased:   <HKH, HLH> / (n-1)^2

The unbiased form is equation 5 of Song et al. 2012 (Szekely and Rizzo 2014). Each Gram matrix is made once
and read once, in blocks of rows that stay in cache, in float64: all pairs are one matrix product
[m, n n] x [n n, k].
Centering is a projection, so it is enough that one of two matrices is centered, or that what it takes off a
product is known from row sums:
    <U(K), U(L)> = <K, L> - 2 r.s / (n-2) + t u / ((n-1)(n-2)),  r, s: row sums, t, u: totals
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bido_ext._float64 import widened
from bido_ext.ops.cka import GRAM_UNITS, has_differences
from bido_ext.ops.gram_stack import gram_stack
from bido_ext.ops.group import Group
from bido_ext.reference.resolution import LEAST_LEFT

#: float64 numbers of a model's Gram matrices that exist at a time: 2 MB, a core's cache.
BLOCK_NUMBERS = 1 << 18


@dataclass
class SimilaritySums:
    """Sums over batches: HSIC of each pair of layers and of each layer with itself, float64."""

    products: Tensor
    own: Tensor
    other_own: Tensor

    def plus(self, more: SimilaritySums) -> SimilaritySums:
        """The sums of both."""
        return SimilaritySums(
            *(getattr(self, f.name) + getattr(more, f.name) for f in fields(self))
        )

    def only(self, rows: Sequence[int], columns: Sequence[int]) -> SimilaritySums:
        """Some rows and columns."""
        i, j = list(rows), list(columns)
        return SimilaritySums(self.products[i][:, j], self.own[i], self.other_own[j])

    def cpu(self) -> SimilaritySums:
        """The same on the CPU."""
        return SimilaritySums(*(getattr(self, f.name).cpu() for f in fields(self)))

    def cka(self) -> Tensor:
        """The ratio of the sums, (m, k), in [-1, 1]; NaN where a layer never had differences."""
        known = (self.own > 0)[:, None] & (self.other_own > 0)
        size = self.own.clamp_min(0).sqrt()[:, None] * self.other_own.clamp_min(0).sqrt()
        ratio = (self.products / torch.where(known, size, 1.0)).clamp(-1, 1)  # rounding beyond
        return torch.where(known, ratio, torch.nan)


class CenteredGrams:
    """Gram matrices of one model's layers, ready to be multiplied.

    A float64 matrix is centered before it is multiplied. Of a float32 one the row sums are taken off the
    products: in float64 that loses less than the rounding of its entries lost already, whatever they have in
    common.

    Args:
        group: The layers' features.
        unbiased: Which centering.
    """

    def __init__(self, group: Group, unbiased: bool) -> None:
        self.n, self.unbiased, self._group = group.n, unbiased, group
        self.stack = gram_stack(group)
        if unbiased:
            self.stack.diagonal(dim1=1, dim2=2).zero_()
        n = self.n
        self.one, self.two = (n - 2, (n - 1) * (n - 2)) if unbiased else (n, n * n)
        self.differs = torch.stack(
            [has_differences(v, k) for v, k in zip(group.variables, group.kinds, strict=True)]
        )
        self.shift: Tensor | None = None
        #: Row sums of the blocks so far.
        self.rows = self.stack.new_zeros((len(self.stack), n), dtype=torch.float64)
        if self.stack.dtype == torch.float64:
            sums = self.stack.sum(2)
            self.shift = sums / self.one - sums.sum(1, keepdim=True) / (2 * self.two)

    def in_float64(self) -> CenteredGrams | None:
        """The same from features in float64; None where they are, or a user's kernel has made the matrices."""
        wide = widened(self._group.variables, self._group.kinds, exact=True)
        if wide is None:
            return None
        return CenteredGrams(Group(wide, self._group.parameters, self._group.kinds), self.unbiased)

    def block(self, rows: slice) -> Tensor:
        """Rows of every matrix as they are multiplied, (m, rows * n), float64."""
        part = self.stack[:, rows].double()
        self.rows[:, rows] = part.sum(2)
        if self.shift is not None:
            part = part - self.shift[:, rows, None]
            part -= self.shift[:, None, :]
            if self.unbiased:
                part.diagonal(rows.start, 1, 2).zero_()
        return part.flatten(1)

    def taken(self) -> Tensor:
        """What centering takes off the sum of squares of each matrix, (m), after all blocks."""
        squares, total = torch.linalg.vecdot(self.rows, self.rows), self.rows.sum(1)
        return 2 * squares / self.one - total.square() / self.two


def sums_of_batch(first: CenteredGrams, second: CenteredGrams | None) -> SimilaritySums:
    """HSIC of each layer of ``first`` with each of ``second``; None: with its own.

    A layer whose samples differ by rounding alone has HSIC 0 with all others. Features that are not finite, or
    whose Gram matrix overflows, give NaN or Inf in ``own``.
    """
    sums, lost = sums_as_made(first, second)
    if bool(lost):
        wide, other = first.in_float64(), second and second.in_float64()
        if wide is not None or other is not None:
            return sums_as_made(wide or first, other or second)[0]
    return sums


def sums_as_made(
    first: CenteredGrams, second: CenteredGrams | None
) -> tuple[SimilaritySums, Tensor]:
    """The sums, and whether a float32 matrix has lost too many digits of them (0-d bool)."""
    n = first.n
    products, own, other_own = [], [], []
    step = max(1, BLOCK_NUMBERS // (n * len(first.stack)))
    for begin in range(0, n, step):
        rows = slice(begin, min(n, begin + step))
        a = first.block(rows)
        own.append(torch.linalg.vecdot(a, a))
        b = a if second is None else second.block(rows)
        other_own.append(own[-1] if second is None else torch.linalg.vecdot(b, b))
        products.append(a @ b.mT)
    known, norms, lost = _known(first, _total(own))
    other_known, other_norms, other_lost = _known(second or first, _total(other_own))
    product = _total(products) - _taken_off_pairs(first, second or first)
    pairs = known[:, None] & other_known
    scale = 1 / (n * (n - 3)) if first.unbiased else 1 / (n - 1) ** 2
    sums = SimilaritySums(
        torch.where(pairs, product, 0.0) * scale, norms * scale, other_norms * scale
    )
    return sums, torch.cat([lost, other_lost]).any()


def _taken_off_pairs(first: CenteredGrams, second: CenteredGrams) -> Tensor | float:
    """What centering takes off the product of each pair; nothing where a side was centered before."""
    if first.shift is not None or second.shift is not None:
        return 0.0
    r, s = first.rows, second.rows
    return 2 * (r @ s.mT) / first.one - torch.outer(r.sum(1), s.sum(1)) / first.two


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _known(grams: CenteredGrams, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which layers are more than rounding (what is not finite is), |centered matrix|^2, else 0, and of which
    layers float32 entries overflow, or are all but lost in centering, as beside a far sample.

    Args:
        norms: Sums of squares of the matrices as they were multiplied, (m).
    """
    taken = grams.taken()
    if grams.shift is None:
        squares, norms = norms, norms - taken
    else:
        squares = norms + taken
    floor = (GRAM_UNITS * torch.finfo(grams.stack.dtype).eps) ** 2 * squares
    known = (grams.differs & (norms > floor)) | ~torch.isfinite(norms)
    narrow = grams.stack.dtype != torch.float64
    lost = grams.differs & ~(norms >= LEAST_LEFT**2 * squares) & narrow
    return known, torch.where(known, norms, 0.0), lost
