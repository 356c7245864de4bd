# SPDX-License-Identifier: Apache-2.0
"""A measure of the union of all ranks' samples, and an objective of it, where features pass round a ring.

The gradient of a rank's rows needs all features once more, and the backward shall exchange nothing. So the
second trip is taken in the forward: the objective is a function of the values that is known then, its
derivatives weigh the Gram matrices, and the gradient of the own rows waits for the backward, which only
scales it.

hsic and cka: O(n^2 / ranks) per rank. nhsic and coco factorise whole Gram matrices: rows of them are gathered
instead of features, (m - 1) n^2 numbers, and every rank computes the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bido_ext.nn.gram_blocks import (
    gradient_of_gram,
    gram_block,
    nan_if_unresolved,
    needs_float64,
    partner_weights,
)
from bido_ext.nn.ready_gradients import with_ready_gradients
from bido_ext.nn.ring_grams import GramGradient, RingGrams
from bido_ext.nn.row_panels import exchange_sums, hsic_of_sums, normaliser
from bido_ext.nn.shards import GroupHandle, Shards, gather_rows
from bido_ext.nn.tied_over_ranks import tied_rows
from bido_ext.ops.cka import (
    cka_of_pairs,
    has_differences,
    more_than_rounding,
    unbiased_cka_of_pairs,
)
from bido_ext.ops.group import Group, Pairs, make_group
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure
from bido_ext.ops.ring_memory import ring_blocks
from bido_ext.reference.gram_stack import GRAM, LABELS, LINEAR
from bido_ext.reference.resolution import unresolved

Objective = Callable[[Tensor], Tensor]


class RingTerms(NamedTuple):
    """What a step gives.

    Attributes:
        total: The objective, 0-d float64, in graph.
        values: The measure of each pair, float64 [pairs], without graph.
        seen: Per variable a number that is not finite where any rank's features are not, [m].
    """

    total: Tensor
    values: Tensor
    seen: Tensor


def ring_terms(
    measure: Measure,
    own: Sequence[Tensor],
    kernels: Sequence[Kernel],
    num_classes: int | None,
    pairs: Pairs,
    objective: Objective,
    shards: Shards,
    handle: GroupHandle,
    workspace_bytes: int | None,
) -> RingTerms:
    """The measure of each pair of the global batch and the objective, the same on all ranks.

    Args:
        own: This rank's rows of each variable, in graph: features (n_r, d), last the targets or labels.
        objective: A differentiable number of the values.
        workspace_bytes: Bound on the panels of this rank; default 1 GiB.

    Returns:
        The gradient of ``total`` reaches ``own``, times the number of ranks.

    Raises:
        WorkspaceError: Not even a block of one row fits into workspace_bytes; on all ranks.
    """
    own = tied_rows(own, kernels, shards, handle)
    wanted = [v for v, t in enumerate(own) if t.requires_grad and torch.is_grad_enabled()]
    with torch.no_grad(), torch.autocast(own[0].device.type, enabled=False):
        moving = [t.detach() for t in own[:-1]]
        (targets,) = gather_rows(handle, shards, own[-1:])
        group = make_group([*moving, targets], kernels, num_classes)
        whole = measure.name not in ("hsic", "cka")
        # A ridge needs Gram matrices to the last digit.
        dtype = group.dtype if measure.eps is None else torch.float64
        plan = ring_blocks(shards.counts, len(own), dtype.itemsize, workspace_bytes, whole)
        grams = RingGrams(
            group,
            moving,
            shards,
            handle,
            plan.block,
            dtype,
            measure.unbiased,
            workspace_bytes,
            whole,
        )
        if plan.keep:
            grams.keep()
        terms = _whole_terms if whole else _panel_terms
        total, values, gram_gradient = terms(measure, grams, pairs, objective, bool(wanted))
        grads = grams.gradients(gram_gradient, wanted)
        ready = [grads[v].mul_(shards.world_size) for v in wanted]
    return RingTerms(
        with_ready_gradients(total, [own[v] for v in wanted], ready), values, grams.seen
    )


#: Messages whose sizes are found at run time do not belong into a graph.
ring_terms_eagerly = torch.compiler.disable(ring_terms)


def _panel_terms(
    measure: Measure, grams: RingGrams, pairs: Pairs, objective: Objective, wanted: bool
) -> tuple[Tensor, Tensor, GramGradient]:
    """hsic and cka from row sums and products."""
    hsic_of = _RingHsic(grams, wanted)
    with torch.set_grad_enabled(wanted):
        values = _of_hsic(measure, pairs, hsic_of)
        total = objective(values)
    if not wanted or not total.requires_grad:
        return total.detach(), values.detach(), _no_gradient
    (grad,) = torch.autograd.grad(total, hsic_of.leaf)
    grad = grad / normaliser(grams.shards.n, grams.unbiased)
    weights = [partner_weights(grad, hsic_of.pairs, v) for v in range(len(grams.group.kinds))]

    def gram_gradient(v: int, rows: slice, columns: slice, E: Sequence[Tensor]) -> Tensor:
        return gradient_of_gram(weights[v], E, hsic_of.sums, rows, columns, grams.unbiased)

    return total.detach(), values.detach(), gram_gradient


def _of_hsic(measure: Measure, pairs: Pairs, hsic_of: _RingHsic) -> Tensor:
    if measure.name == "hsic":
        return hsic_of(pairs)
    if not measure.unbiased:
        return cka_of_pairs(pairs, hsic_of)
    grams = hsic_of.grams
    return unbiased_cka_of_pairs(
        pairs, lambda every: (hsic_of(every), hsic_of.sums), grams.shards.n, grams.group.dtype,
        hsic_of.differ,
    )  # fmt: skip


class _RingHsic:
    """HSIC of pairs from the first trip.

    Attributes:
        pairs: Those of the call.
        sums: Row sums of all rows, float64 [m, n].
        differences: Those of the grams, of all ranks' rows.
        leaf: The values, from which a graph starts where a gradient is wanted.
    """

    pairs: Pairs
    sums: Tensor
    differences: Tensor
    leaf: Tensor

    def __init__(self, grams: RingGrams, wanted: bool) -> None:
        self.grams, self.wanted = grams, wanted

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Tensor:
        grams = self.grams
        self.sums, products = self._trip(pairs)
        if needs_float64(self.sums, grams.group.kinds, grams.dtype):
            grams.widen()
            self.sums, products = self._trip(pairs)
        self.pairs = pairs
        self.leaf = hsic_of_sums(self.sums, products, pairs, grams.unbiased)
        return self.leaf.requires_grad_(self.wanted)

    def differ(self, v: int) -> Tensor:
        """Whether the samples of a variable differ by more than rounding; the same on all ranks."""
        grams = self.grams
        if v == grams.targets:
            return has_differences(grams.group.variables[v], grams.group.kinds[v])
        spread, size = self.differences[:, v].sqrt()
        return more_than_rounding(spread, size, grams.moving[v].dtype)

    def _trip(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        grams = self.grams
        products = grams.group.parameters.new_zeros(len(pairs.first))
        sums = products.new_zeros((len(grams.group.kinds), grams.count))
        for rows, columns, E in grams.first_trip():
            for v, gram in enumerate(E):
                sums[v, rows] += gram.sum(1, dtype=torch.float64)
                if grams.group.n > 1 and columns.stop - columns.start > 1:
                    sums[v, rows] += nan_if_unresolved(gram, grams.group.kinds[v])
            for p, (a, b) in enumerate(zip(*pairs, strict=True)):
                products[p] += (E[a] * E[b]).sum(dtype=torch.float64)
        told = [products, grams.differences.flatten()] if grams.unbiased else [products]
        sums, added = exchange_sums(grams.shards, grams.handle, sums, torch.cat(told))
        products, differences = added.tensor_split([len(products)])
        if grams.unbiased:
            self.differences = differences.view_as(grams.differences)
        return sums, products


def _whole_terms(
    measure: Measure, grams: RingGrams, pairs: Pairs, objective: Objective, wanted: bool
) -> tuple[Tensor, Tensor, GramGradient]:
    """nhsic and coco from whole Gram matrices, on every rank."""
    for _ in grams.first_trip():
        pass
    last = grams.group.kinds[-1]
    # As features, a linear kernel's targets have any scale and rank; their Gram matrix is then singular for
    # float32. Where their gradient is wanted (of the Gram matrix, as of all here), it is taken all the same.
    whole = last == LABELS or (last == LINEAR and grams.targets not in grams.shards.wanted)
    kinds = [GRAM] * grams.targets + [last if whole else GRAM]
    stack = _gathered(grams, whole)
    checked = zip(stack[: grams.targets + (not whole)], grams.group.kinds, strict=False)
    # The same on all ranks, which have the same matrices; and on the CPU alone, as in one process.
    if stack[0].device.type == "cpu" and any(bool(unresolved(E, kind)) for E, kind in checked):
        grams.widen()
        for _ in grams.first_trip():
            pass
        stack = _gathered(grams, whole)
    leaves = {v: stack[v] for v in grams.shards.wanted if kinds[v] == GRAM and wanted}
    for leaf in leaves.values():
        leaf.requires_grad_()
    with torch.set_grad_enabled(wanted):
        values = measure.values(Group(stack, grams.group.parameters, kinds), pairs)
        total = objective(values)
    if not leaves or not total.requires_grad:
        return total.detach(), values.detach(), _no_gradient
    found = torch.autograd.grad(total, list(leaves.values()))
    gradients = {v: (G + G.mT).mul_(0.5) for v, G in zip(leaves, found, strict=True)}

    def gram_gradient(v: int, rows: slice, columns: slice, E: Sequence[Tensor]) -> Tensor:
        return gradients[v][rows, columns]

    return total.detach(), values.detach(), gram_gradient


def _gathered(grams: RingGrams, targets_as_given: bool) -> list[Tensor]:
    """Whole Gram matrices (n, n), the targets perhaps as they are; the kept panels become parts of them."""
    assert grams.kept is not None
    *panels, targets = grams.kept
    grams.kept = None
    # Two ranks round E_ij and E_ji differently.
    stack = [(E + E.mT).mul_(0.5) for E in gather_rows(grams.handle, grams.shards, panels)]
    grams.kept = [*(E.detach()[grams.shards.own] for E in stack), targets]
    last, kind = grams.whole_targets, grams.group.kinds[-1]
    if targets_as_given:
        return [*stack, last.x]
    parameter, every = grams.group.parameters[-1], slice(0, grams.shards.n)
    return [*stack, gram_block(last, last, every, parameter, kind, grams.dtype)]


def _no_gradient(v: int, rows: slice, columns: slice, E: Sequence[Tensor]) -> Tensor:
    """Where the objective does not depend on the values: weights of 0."""
    return E[v].new_zeros(()).expand(E[v].shape)
