# SPDX-License-Identifier: Apache-2.0
"""A rank's rows of every Gram matrix, and the gradient of its rows, from features that pass round the ring.

own: m - 1 times [n_r, d_v] features, and the targets of all ranks [n, e] or [n]
first trip:  E[own rows, rows of q] of every variable, as the block of rank q arrives
second trip: x-gradient of the own rows += A x_q, A1 += A[own rows, rows of q] 1, from G = d objective / dK

Distances do not change with a shift, so each rank takes the mean of its own rows from all that it multiplies.
Targets are small beside features: they are gathered, and are where a linear kernel needs one shift everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bido_ext.nn.gram_blocks import Rows, gram_block, rows_of, weight_block, without_diagonal
from bido_ext.nn.ring import pass_round
from bido_ext.nn.row_panels import blocks_of_rows
from bido_ext.nn.shards import GroupHandle, Shards
from bido_ext.ops.group import Group
from bido_ext.ops.ring_memory import ring_blocks
from bido_ext.reference.gram_stack import LABELS, accumulation_dtype

#: d objective / dK of a block. Arguments: variable, own rows (counted in the global batch), columns, and the
#: block of every variable's Gram matrix.
GramGradient = Callable[[int, slice, slice, Sequence[Tensor]], Tensor]


class Block(NamedTuple):
    """Some rows of this rank against those of one rank.

    Attributes:
        rows: Own rows, counted within this rank.
        columns: The other's, counted in the global batch.
        E: Gram matrices up to centering of every variable, (rows, columns) each.
    """

    rows: slice
    columns: slice
    E: Sequence[Tensor]


@dataclass
class RingGrams:
    """The Gram matrices of a step.

    Attributes:
        group: This rank's rows of the input and of every layer; last the targets of all ranks. No graph.
        moving: What passes round: the rows of the input and of every layer as they were given.
        block: Own rows of a block.
        dtype: Of the Gram matrices.
        unbiased: Whether they are without their diagonals.
        workspace_bytes: Bound on the panels of this rank.
        whole: Whether all panels have to be kept.
        kept: Panels (n_r, n) of every variable, or None where blocks are made twice.
        seen: Per variable a number that is not finite where any rank's features are not.
        differences: Per variable that passes round, of the own rows: the squares of their differences to
            the first row of all ranks, and of themselves, float64 [2, m - 1]. Filled by the first trip.
    """

    group: Group
    moving: Sequence[Tensor]
    shards: Shards
    handle: GroupHandle
    block: int
    dtype: torch.dtype
    unbiased: bool = False
    workspace_bytes: int | None = None
    whole: bool = False
    kept: list[Tensor] | None = None
    seen: Tensor = field(init=False)
    differences: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.targets = len(self.moving)
        self.start, self.count = self.shards.own.start, self.shards.counts[self.shards.rank]
        self.seen = self.group.parameters.new_zeros(len(self.group.kinds))
        self.differences = self.seen.new_zeros((2, self.targets))
        dtype = self.dtype
        # A rank without rows has no mean, and nothing to multiply.
        self.shifts = [
            x.to(dtype).mean(0, keepdim=True) if self.count else x.new_zeros((1, 1), dtype=dtype)
            for x in self.moving
        ]
        self.whole_targets = rows_of(self.group.variables[-1], self.group.kinds[-1], dtype)
        if self.group.kinds[-1] != LABELS:
            self.seen[-1] = self.group.variables[-1].sum(dtype=torch.float64)

    def keep(self) -> None:
        """Keeps the panels that the first trip makes."""
        shape, dtype = (self.count, self.shards.n), self.dtype
        self.kept = [x.new_empty(shape, dtype=dtype) for x in self.group.variables]

    def widen(self) -> None:
        """Makes all of it in float64 from here on, within the same bytes."""
        counts, m = self.shards.counts, len(self.group.kinds)
        plan = ring_blocks(counts, m, 8, self.workspace_bytes, self.whole)
        self.dtype, self.block, self.kept = torch.float64, plan.block, None
        self.__post_init__()
        if plan.keep:
            self.keep()

    def first_trip(self) -> Iterator[Block]:
        """Every block once; all features pass by."""
        first = next(rank for rank, count in enumerate(self.shards.counts) if count)
        for owner, held in pass_round(self.handle, self.shards, self.moving):
            columns = self.shards.rows_of(owner)
            for v, x in enumerate(held):
                self.seen[v] += x.sum(dtype=torch.float64)
                if self.unbiased and owner == first:
                    self._compare(v, x[:1])
            yield from self._blocks(owner, columns, held, self.kept)

    def _compare(self, v: int, first: Tensor) -> None:
        """Fills ``differences`` of one variable. All ranks have to take the same row."""
        own = self.moving[v].to(accumulation_dtype(first.dtype))
        for i, t in enumerate((own - first, own)):
            self.differences[i, v] = torch.linalg.vector_norm(t, dtype=torch.float64).square()

    def gradients(self, gram_gradient: GramGradient, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Gradients (n_r, d_v) of the own rows of the wanted variables.

        Every rank has to call it, whatever it wants itself: features that any rank wants the gradient of
        take a second trip (all do where no panels were kept).
        """
        travel = sorted(v for v in self.shards.wanted if v < self.targets)
        if self.shards.wanted and not self.kept:
            travel = list(range(self.targets))
        dtype = self.dtype
        widths = {v: self.group.variables[v].shape[1] for v in wanted}
        parameters = self.group.parameters
        grads = {v: parameters.new_zeros((self.count, d), dtype=dtype) for v, d in widths.items()}
        sums = {v: parameters.new_zeros((self.count, 1), dtype=dtype) for v in wanted}
        if not travel and self.targets not in wanted:
            return grads
        for owner, held in pass_round(self.handle, self.shards, [self.moving[v] for v in travel]):
            columns = self.shards.rows_of(owner)
            by_variable: list[Tensor | None] = [None] * self.targets
            for v, x in zip(travel, held, strict=True):
                by_variable[v] = x
            if grads:
                self._add(gram_gradient, owner, columns, by_variable, grads, sums)
        for v, grad in grads.items():
            grad -= sums[v] * self._own(v, slice(0, self.count)).x
        return grads

    def _add(
        self, gram_gradient: GramGradient, owner: int, columns: slice,
        held: Sequence[Tensor | None], grads: dict[int, Tensor], sums: dict[int, Tensor],
    ) -> None:  # fmt: skip
        """Adds A x_q and A1 of the columns of one rank."""
        for rows, _, E in self._blocks(owner, columns, held):
            here = slice(self.start + rows.start, self.start + rows.stop)
            same = rows if owner == self.shards.rank else None
            for v, grad in grads.items():
                G = gram_gradient(v, here, columns, E).to(grad.dtype)
                G = without_diagonal(G, same) if self.unbiased else G
                A = weight_block(G, E[v], same, self.group.parameters[v], self.group.kinds[v])
                grad[rows] += A @ self._others(v, columns, held[v] if v < self.targets else None).x
                sums[v][rows] += A.sum(1, keepdim=True)

    def _blocks(
        self, owner: int, columns: slice, held: Sequence[Tensor | None],
        fill: Sequence[Tensor] | None = None,
    ) -> Iterator[Block]:  # fmt: skip
        """The blocks of the columns of one rank: made (and filled in), or, without fill, those kept."""
        if self.kept and fill is None:
            for rows in blocks_of_rows(0, self.count, self.block):
                yield Block(rows, columns, [panel[rows, columns] for panel in self.kept])
            return
        for rows in blocks_of_rows(0, self.count, self.block):
            E = []
            for v in range(self.targets + 1):
                gram = self._gram(v, rows, owner, columns, held[v] if v < self.targets else None)
                if fill is not None:
                    place = fill[v][rows, columns]
                    place.copy_(gram)
                    gram = place
                E.append(gram)
            yield Block(rows, columns, E)

    def _gram(self, v: int, rows: slice, owner: int, columns: slice, held: Tensor | None) -> Tensor:
        same = rows if owner == self.shards.rank else None
        kind, dtype = self.group.kinds[v], self.dtype
        own, others = self._own(v, rows), self._others(v, columns, held)
        gram = gram_block(own, others, same, self.group.parameters[v], kind, dtype)
        return without_diagonal(gram, same) if self.unbiased else gram

    def _own(self, v: int, rows: slice) -> Rows:
        if v == self.targets:
            return self.whole_targets.part(self.shards.own).part(rows)
        return rows_of(self.moving[v][rows], self.group.kinds[v], self.dtype, self.shifts[v])

    def _others(self, v: int, columns: slice, held: Tensor | None) -> Rows:
        if v == self.targets:
            return self.whole_targets.part(columns)
        assert held is not None
        return rows_of(held, self.group.kinds[v], self.dtype, self.shifts[v])
