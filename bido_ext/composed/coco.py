# SPDX-License-Identifier: Apache-2.0
"""coco with the spectral norm, whose top singular vectors come from a block Krylov space made of few calls.

As bido_ext/ops/coco_spectral.py, but for the vectors: all pairs of a batch at once, and a block made orthogonal
by two products and one QR, where one column after the other takes some ten calls each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bido_ext.composed import BATCHED_UP_TO
from bido_ext.composed._top_singular import top_singular_vectors
from bido_ext.ops.algebra import batches
from bido_ext.ops.coco_group import CocoGroup
from bido_ext.ops.gram_stack import gram_stack_of
from bido_ext.reference.resolution import nan_where_unresolved
from bido_ext.serving.row import Function, default_of

#: From matrices K, L (b, n, n) to u and v (b, n, 1).
Vectors = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def coco(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The contract of bido_ext.ops.coco; of the Frobenius norm the composition is made of few calls already."""
    return _forward(
        top_singular_vectors, variables, parameters, kinds, first, second, norm, wide, wanted
    )


def coco_backward(*args: Any) -> list[Tensor]:
    """The contract of bido_ext.ops.coco: the composition's, from the vectors that were kept."""
    return default_of("coco_backward")(*args)  # type: ignore[no-any-return]


def forward_with(vectors_of: Vectors) -> Function:
    """The forward with another way to the top singular vectors."""
    return partial(_forward, vectors_of)


def _forward(
    vectors_of: Vectors, variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int],
    first: Sequence[int], second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if norm != "spectral":
        return default_of("coco")(  # type: ignore[no-any-return]
            variables, parameters, kinds, first, second, norm, wide, wanted
        )
    with torch.autocast(parameters.device.type, enabled=False):
        stack = gram_stack_of(variables, parameters, kinds, wanted)
        group = CocoGroup(variables, parameters, kinds, first, second, wide, wanted, stack)
        group.note_wanted()
        values, kept = _vectors_of_pairs(group, vectors_of)
        nothing = torch.zeros((), dtype=torch.bool, device=values.device)
        bad = [group.unresolved.get(i, nothing) for i in range(len(kinds))]
    return nan_where_unresolved(values, bad, first, second), stack, kept


def _vectors_of_pairs(g: CocoGroup, vectors_of: Vectors) -> tuple[Tensor, Tensor]:
    """values [pairs] and u, v, Lc v, Kc u of each pair, [pairs, 4, n]."""
    values, vectors = [], []
    centered: dict[int, Tensor] = {}
    for batch in batches(g.n, len(g.pairs), BATCHED_UP_TO):
        pairs = g.pairs[batch]
        for i in sorted({i for pair in pairs for i in pair} - set(centered)):
            centered[i] = g.centered(i)
        K, L = (torch.stack([centered[pair[side]] for pair in pairs]) for side in (0, 1))
        later = {i for pair in g.pairs[batch.stop :] for i in pair}
        centered = {i: matrix for i, matrix in centered.items() if i in later}
        u, v = vectors_of(K, L)
        Ku, Lv = K @ u, L @ v
        values.append((Ku * Lv).sum((-2, -1)).clamp_min(0).sqrt() / g.n)
        vectors.append(torch.cat([u, v, Lv, Ku], -1).mT)
    if not values:
        return g.parameters.new_zeros((0,)), g.parameters.new_zeros((0, 4, g.n), dtype=g.dtype)
    return torch.cat(values).to(g.parameters.dtype), torch.cat(vectors)
