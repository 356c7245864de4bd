# SPDX-License-Identifier: Apache-2.0
"""A measure of the union of all ranks' samples; each rank gets the whole gradient of its own rows.

hsic and cka run from row panels (row_panels.py): O(n^2 / ranks) per rank. nhsic and coco factorise whole Gram
matrices, so there every rank computes the terms of the whole batch and keeps the gradient of its rows; so do
kernels of the user's own. Features, and only features, are exchanged; the backward exchanges nothing. Here
they are gathered; ring_terms.py passes them round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bido_ext.nn.own_rows import tie_own_rows
from bido_ext.nn.row_panels import hsic_of_row_panels
from bido_ext.nn.shards import GroupHandle, Shards, gather_rows
from bido_ext.nn.tied_over_ranks import tied_rows
from bido_ext.ops._validate import is_labels
from bido_ext.ops.cka import cka_of_pairs, differences_of, unbiased_cka_of_pairs
from bido_ext.ops.group import Group, Pairs, make_group
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure


def global_values(
    measure: Measure,
    own: Sequence[Tensor],
    kernels: Sequence[Kernel],
    num_classes: int | None,
    pairs: Pairs,
    shards: Shards,
    handle: GroupHandle,
    workspace_bytes: int | None,
) -> tuple[Tensor, list[Tensor]]:
    """The measure of each pair of the global batch.

    Args:
        own: This rank's rows of each variable, in graph: features (n_r, d) or labels (n_r,).
        workspace_bytes: As for the measure, per rank.

    Returns:
        Values, float64 [pairs], the same on all ranks; their gradient reaches ``own``, times the number
        of ranks. And the gathered variables, (n, ...).
    """
    by_panels = measure.name in ("hsic", "cka") and all(
        k.kind is not None or is_labels(t) for t, k in zip(own, kernels, strict=True)
    )
    if by_panels:
        own = tied_rows(own, kernels, shards, handle)
    whole = gather_rows(handle, shards, own)
    if by_panels:
        with torch.no_grad():  # the gradient goes through the own rows
            group = make_group(whole, kernels, num_classes)
        # In the group's dtypes, as the gathered ones: the gradient goes on to what own was cast from.
        rows = [t.to(v.dtype) for t, v in zip(own, group.variables, strict=True)]
        unbiased = measure.unbiased
        hsic_of = _row_panels(rows, group, shards, handle, workspace_bytes, unbiased)
        if measure.name == "hsic":
            return hsic_of(pairs)[0], whole
        if unbiased:
            differ = differences_of(group)
            return unbiased_cka_of_pairs(pairs, hsic_of, group.n, group.dtype, differ), whole
        return cka_of_pairs(pairs, lambda every: hsic_of(every)[0], group), whole
    tied = [tie_own_rows(t, w, shards) for t, w in zip(own, whole, strict=True)]
    group = make_group(tied, kernels, num_classes, measure.exact, measure.unbiased)
    return measure.values(group, pairs, workspace_bytes), whole


def _row_panels(
    rows: Sequence[Tensor],
    group: Group,
    shards: Shards,
    handle: GroupHandle,
    workspace_bytes: int | None,
    unbiased: bool,
) -> Callable[[Pairs], tuple[Tensor, Tensor]]:
    def hsic_of(pairs: Pairs) -> tuple[Tensor, Tensor]:
        return hsic_of_row_panels(rows, group, pairs, shards, handle, workspace_bytes, unbiased)

    return hsic_of


#: Collectives whose sizes are found at run time do not belong into a graph.
global_values_eagerly = torch.compiler.disable(global_values)
