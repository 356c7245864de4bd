# SPDX-License-Identifier: Apache-2.0
"""COCO with the spectral norm as a composition: with the top singular triple (u, s, v) of Kc Lc

    value_p = sqrt(s) / n,  d value_p / d K = sym(u (Lc v)') / (2 n sqrt(s)).

u, v, Lc v and Kc u are kept for the backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bido_ext.ops.algebra import batches, center_stack, partners_of
from bido_ext.ops.coco_group import CocoGroup
from bido_ext.ops.top_singular import top_singular_vectors


def forward(g: CocoGroup) -> tuple[Tensor, Tensor]:
    """values [pairs] and u, v, Lc v, Kc u of each pair, [pairs, 4, n]."""
    partners = partners_of(g.first, g.second, g.wanted)
    # Centered matrices of what several pairs share; the others live for one batch.
    shared = {i: g.centered(i) for i in range(len(g.kinds)) if i in partners or i not in g.wanted}
    values = g.parameters.new_zeros((len(g.pairs),))
    vectors = g.parameters.new_zeros((len(g.pairs), 4, g.n), dtype=g.dtype)
    done: set[int] = set()
    for batch in [slice(0, 0), *batches(g.n, len(g.wanted))]:
        here = dict(zip(g.wanted[batch], center_stack(g.stack[batch], g.dtype), strict=True))
        for p, (a, b) in enumerate(g.pairs):
            if p in done or not all(i in shared or i in here for i in (a, b)):
                continue
            done.add(p)
            Kc, Lc = (here[i] if i in here else shared[i] for i in (a, b))
            u, v = top_singular_vectors(Kc, Lc)
            Ku, Lv = Kc @ u, Lc @ v
            vectors[p] = torch.stack([u, v, Lv, Ku])
            values[p] = torch.dot(Ku, Lv).clamp_min(0).sqrt() / g.n
    return values, vectors


def backward(g: CocoGroup, grad: Tensor, values: Tensor, kept: Tensor) -> Iterator[Tensor]:
    """The gradients of the Gram matrices, (batch, n, n) for each of :func:`batches`."""
    # The gradient is defined as 0 where the value is.
    safe = torch.where(values > 0, values, 1.0) * g.n
    weight = torch.where(values > 0, grad / (2 * g.n * safe), 0 * values).to(kept.dtype)
    for batch in batches(g.n, len(g.wanted)):
        own = list(g.wanted[batch])
        half = kept.new_zeros((len(own), g.n, g.n))
        for p, (a, b) in enumerate(g.pairs):
            u, v, Lv, Ku = kept[p].unbind()
            for variable, left, right in ((a, u, Lv), (b, v, Ku)):
                if variable in own:
                    half[own.index(variable)] += torch.outer(left * weight[p], right)
        yield (half + half.mT) / 2
