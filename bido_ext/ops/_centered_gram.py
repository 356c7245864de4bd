# SPDX-License-Identifier: Apache-2.0
"""A centered Gram matrix HKH of one variable for tests: whole, by panels of rows, or as a thin factor.

Everything is in float64 and without derivatives. A factor A (n, r) with HKH = A A' is exact for labels and
linear kernels; for others it comes from a pivoted Cholesky decomposition that is given up where the kernel
has no low numerical rank on these samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bido_ext.ops.distances import cross_distances
from bido_ext.ops.group import Group
from bido_ext.reference.gram_stack import (
    GAUSSIAN,
    GRAM,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LINEAR,
    gram_up_to_centering,
)
from bido_ext.reference.kernel_entries import ENERGY

#: A factor leaves out at most this share of the trace of HKH.
RESIDUAL = 1e-13
#: Rows of a panel whose temporaries stay in cache.
PANEL = 128


class CenteredGram:
    """HKH of variable ``index`` of a group, K its Gram matrix up to centering.

    Attributes:
        n: Number of samples.
        codes: Of labels: the number of each sample's class, [n].
    """

    def __init__(self, group: Group, index: int, keep: bool) -> None:
        self.n = group.n
        self.kind = group.kinds[index]
        self.codes = self._counts = group.variables[index].new_empty((0,), dtype=torch.int64)
        self._parameter = group.parameters[index].double()
        x = group.variables[index].detach()
        self._x = x if self.kind == LABELS else x.double()
        if self.kind == LINEAR:
            self._x = self._x - self._x.mean(0)
        if self.kind not in (GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, ENERGY, LABELS, GRAM):
            self._x = gram_up_to_centering(self._x, self._parameter, self.kind, torch.float64)
            self.kind = GRAM
        self._keep = keep
        self._means: Tensor | None = None
        if self.kind == LABELS:
            _, self.codes, self._counts = x.unique(return_inverse=True, return_counts=True)
            self._x = self.codes
            self._means = self._counts[self.codes].double() * (self._parameter / self.n)
        self._whole: Tensor | None = None

    @property
    def means(self) -> Tensor:
        """Row means of K, [n]; made at first use, and K with them where it is kept."""
        if self._means is None:
            if self._keep:
                self._whole = self._x.new_empty((self.n, self.n), dtype=torch.float64)
            means = self._x.new_empty((self.n,), dtype=torch.float64)
            for begin in range(0, self.n, PANEL):
                panel = self.rows(slice(begin, begin + PANEL))
                means[begin : begin + PANEL] = panel.mean(1)
                if self._whole is not None:
                    self._whole[begin : begin + PANEL] = panel
            self._means = means
        return self._means

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Some rows of K, (m, n)."""
        x = self._x
        if self.kind == GRAM:
            return x[rows]
        if self.kind == LABELS:
            return (x[rows, None] == x).double().mul_(self._parameter)
        if self.kind == LINEAR:
            return x[rows] @ x.T
        if self.kind == ENERGY:
            r = cross_distances(x[rows], x)
            return (r if float(self._parameter) == 1 else r.pow_(self._parameter)).neg_()
        D = cross_distances(x[rows], x, squared=True)
        if self.kind == GAUSSIAN:
            return D.mul_(-self._parameter).expm1_()
        return D.log1p_().mul_(-0.5).expm1_()

    def raw_diagonal(self) -> Tensor:
        """The diagonal of K, [n]."""
        if self.kind == GRAM:
            return self._x.diagonal()
        if self.kind == LINEAR:
            return self._x.square().sum(1)
        value = float(self._parameter) if self.kind == LABELS else 0.0
        return self._x.new_full((self.n,), value, dtype=torch.float64)

    def diagonal(self) -> Tensor:
        """The diagonal of HKH, [n]."""
        return self.raw_diagonal() - 2 * self.means + self.means.mean()

    def panel(self, rows: slice | Tensor) -> Tensor:
        """Some rows of HKH, (m, n)."""
        means = self.means
        K = self.rows(rows) if self._whole is None else self._whole[rows]
        return (K - means).sub_(means[rows, None] - means.mean())

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """HKH, (n, n); a K that was kept is given up."""
        like = self.means  # makes K where it is kept
        result = self._whole
        if result is None or dtype != torch.float64:
            result = like.new_empty((self.n, self.n), dtype=dtype)
        for begin in range(0, self.n, PANEL):
            result[begin : begin + PANEL] = self.panel(slice(begin, begin + PANEL))
        self._whole = None
        self._keep = False
        return result

    @property
    def scale(self) -> Tensor:
        """What the indicator of the same class is multiplied with."""
        return self._parameter

    def factor(self, most: int) -> Tensor | None:
        """A (n, r) with HKH = A A' but for :data:`RESIDUAL`, or None where r would exceed ``most``."""
        if self.kind == LABELS:
            if len(self._counts) > most:
                return None
            one_hot = torch.nn.functional.one_hot(self.codes, len(self._counts)).double()
            A = one_hot * self._parameter.sqrt()
        elif self.kind == LINEAR and self._x.shape[1] <= most:
            A = self._x
        else:
            pivoted = self._pivoted_cholesky(most)
            if pivoted is None:
                return None
            A = pivoted
        return A - A.mean(0)

    def _pivoted_cholesky(self, most: int) -> Tensor | None:
        """A factor of k(a, b) - k(a, c) - k(c, b) + k(c, c), c the first sample: positive semidefinite, with
        the HKH of k, and made of the digits of K alone."""
        first = self._column(0)
        corner = first[0].clone()
        rest = self.raw_diagonal() - 2 * first + corner
        if float(rest.min()) < -1e-12 * float(rest.max()):
            return None  # not the Gram matrix of a kernel
        columns = rest.new_empty((most, self.n))
        trace = 0.0
        for k in range(most):
            pivot = int(rest.argmax())
            size = float(rest[pivot])
            if size <= 0:
                return columns[:k].T
            column = self._column(pivot) - first - first[pivot] + corner
            column = (column - columns[:k, pivot] @ columns[:k]).div_(math.sqrt(size))
            columns[k] = column
            rest = (rest - column.square()).clamp_min_(0)
            rest[pivot] = 0
            trace += float((column - column.mean()).square().sum())
            left = float(rest.sum())
            if left <= RESIDUAL * trace:
                return columns[: k + 1].T
            steps = k + 1
            late = steps >= 16 and steps % 8 == 0
            if late and math.log(left / trace) > 0.3 * steps / most * math.log(RESIDUAL):
                return None  # at this pace it ends far beyond ``most``
        return None

    def _column(self, j: int) -> Tensor:
        return self.rows(slice(j, j + 1))[0]
