# SPDX-License-Identifier: Apache-2.0
"""COCO with the Frobenius norm as a composition: value_p = sqrt(m) / n, m = |Kc Lc|_F, and

    d value_p / d K = sym(Kc Lc^2) m^(-3/2) / (2 n).

Kc Lc^2 comes with the norm, so the forward keeps this gradient, up to its symmetric part, for each side: a
wanted variable with a partner that is not labels. Products with labels are sums over classes and made again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bido_ext.ops.algebra import batches, center_stack, gradients_of_sides
from bido_ext.ops.coco_group import CocoGroup
from bido_ext.reference.gram_stack import LABELS
from bido_ext.reference.kernel_entries import scalar

Side = tuple[int, int]


def sides_of(
    kinds: Sequence[int], first: Sequence[int], second: Sequence[int], wanted: Sequence[int]
) -> list[Side]:
    """Every wanted variable with each of its partners that are not labels (csrc/cpu/sides.h)."""
    both = [side for a, b in zip(first, second, strict=True) for side in ((a, b), (b, a))]
    sides = [(own, b) for own in wanted for a, b in both if a == own and kinds[b] != LABELS]
    return list(dict.fromkeys(sides))


def times_labels(y: Tensor, scale: Tensor, A: Tensor) -> Tensor:
    """Lc A of L = scale [y_i = y_j], for A (..., n, n) whose columns sum to zero.

    Lc A = scale H Y (Y'A) with Y one-hot, so sums of rows over classes are enough. A bag sums its rows in
    order, without atomics, and how many classes there are need not be read from the device.
    """
    n = y.shape[0]
    ordered, order = torch.sort(y, stable=True)
    class_of = torch.zeros_like(order)
    class_of[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    begins = torch.searchsorted(class_of, torch.arange(n, device=y.device))  # empty bags last
    rows = A.movedim(-2, 0)
    bags = torch.nn.functional.embedding_bag(order, rows.reshape(n, -1), begins, mode="sum")
    bags.sub_(bags[:1].clone())  # so that a single class gives zeros and not round-off
    sums = bags.index_select(0, torch.empty_like(order).index_copy_(0, order, class_of))
    del bags
    sums.sub_(sums.mean(0)).mul_(scale.to(A.dtype))
    return sums.view(rows.shape).movedim(0, -2)


def forward(g: CocoGroup) -> tuple[Tensor, Tensor]:
    """values [pairs] and what the backward needs, [sides, n, n] in the dtype of the Gram matrices."""
    sides = sides_of(g.kinds, g.first, g.second, g.wanted)
    kept = g.stack.new_empty((len(sides), g.n, g.n))
    norms = _norms_of_wanted(g, sides, kept)
    centered = functools.cache(g.centered)
    for a, b in g.pairs:
        if frozenset((a, b)) not in norms:  # no gradient is wanted
            a, b = (b, a) if g.kinds[a] == LABELS else (a, b)
            labels = g.kinds[b] == LABELS
            Kc = centered(a)
            M = (
                times_labels(g.variables[b], scalar(g.parameters[b]), Kc)
                if labels
                else Kc @ centered(b)
            )
            norms[frozenset((a, b))] = _norms(M)
    values = [norms[frozenset(pair)].sqrt() / g.n for pair in g.pairs]
    return torch.stack(values) if values else g.parameters.new_zeros((0,)), kept


def _norms_of_wanted(g: CocoGroup, sides: list[Side], kept: Tensor) -> dict[frozenset[int], Tensor]:
    """m of the pairs with a wanted variable; fills ``kept``."""
    norms: dict[frozenset[int], Tensor] = {}
    partners = list(dict.fromkeys(partner for _, partner in sides))
    for chosen in batches(g.n, len(partners)):
        right = {}  # Lc^2, of which <Kc, Kc Lc^2> may cancel in float32; there Lc
        for partner in partners[chosen]:
            Lc = g.centered(partner)
            right[partner] = Lc @ Lc if g.wide else Lc
        of_partners = [s for s, (_, partner) in enumerate(sides) if partner in right]
        for some in batches(g.n, len(of_partners)):
            here = of_partners[some]
            own = [g.wanted.index(sides[s][0]) for s in here]
            Kc = center_stack(_rows(g.stack, own), g.dtype)
            gradients, sizes = _gradients(Kc, _stacked([right[sides[s][1]] for s in here]), g)
            for s, gradient, size in zip(here, gradients, sizes.unbind(), strict=True):
                kept[s] = gradient
                norms[frozenset(sides[s])] = size
            del Kc, gradients
    for batch in batches(g.n, len(g.wanted)):
        for y, rows, Kc in _paired_with_labels(g, batch):
            sizes = _norms(times_labels(g.variables[y], scalar(g.parameters[y]), Kc))
            pairs = (frozenset((g.wanted[batch][k], y)) for k in rows)
            norms.update(zip(pairs, sizes.unbind(), strict=True))
    return norms


def backward(g: CocoGroup, grad: Tensor, values: Tensor, kept: Tensor) -> Iterator[Tensor]:
    """The gradients of the Gram matrices, (batch, n, n) for each of :func:`batches`."""
    sides = sides_of(g.kinds, g.first, g.second, g.wanted)
    of_sides = gradients_of_sides(grad, g.first, g.second, sides).to(g.dtype)
    for batch in batches(g.n, len(g.wanted)):
        own = g.wanted[batch]
        half = kept.new_zeros((len(own), g.n, g.n), dtype=g.dtype)
        for s, (of, _) in enumerate(sides):
            if of in own:
                half[own.index(of)] += of_sides[s] * kept[s].to(g.dtype)
        _add_labels(g, grad, values, batch, half)
        G = (half + half.mT) / 2
        del half
        yield G


def _add_labels(g: CocoGroup, grad: Tensor, values: Tensor, batch: slice, half: Tensor) -> None:
    """Adds what pairs with labels contribute, grad_p Lc^2 Kc m^(-3/2) / (2 n)."""
    own = g.wanted[batch]
    # The gradient is defined as 0 where the value is.
    root = torch.where(values > 0, values, 1.0) * g.n  # m^(1/2)
    weight = torch.where(values > 0, grad / (2 * g.n * root), 0 * values).to(g.dtype)
    for y, rows, Kc in _paired_with_labels(g, batch):
        pairs = [[p for p, pair in enumerate(g.pairs) if set(pair) == {own[k], y}] for k in rows]
        m = torch.stack([root[p[0]] for p in pairs]) ** 2
        M = times_labels(g.variables[y], scalar(g.parameters[y]), Kc)
        M = M.div_(m.to(M.dtype)[:, None, None])  # first, or float32 might overflow
        product = times_labels(g.variables[y], scalar(g.parameters[y]), M)
        for k, matrix, of in zip(rows, product, pairs, strict=True):
            half[k] += matrix.mul_(torch.stack([weight[p] for p in of]).sum())


def _gradients(Kc: Tensor, right: Tensor, g: CocoGroup) -> tuple[Tensor, Tensor]:
    """Of sides, d value / d K up to its symmetric part and m, from Kc and Lc^2 or, not wide, Lc."""
    product = Kc @ right
    if g.wide:
        flat = (Kc.flatten(1)[:, None] @ product.flatten(1)[..., None]).flatten()
        m = flat.clamp_min(0).sqrt()
        safe = torch.where(m > 0, m, 1.0)
        scale = safe**-1.5
    else:
        m = _norms(product)
        safe = torch.where(m > 0, m, 1.0)
        # First, or Kc Lc^2 of tiny matrices would underflow.
        product = product.div_(safe.to(product.dtype)[:, None, None]) @ right
        scale = safe**-0.5
    scale = torch.where(m > 0, scale / (2 * g.n), 0 * m)  # NaN stays
    return product.mul_(scale.to(product.dtype)[:, None, None]), m


def _norms(M: Tensor) -> Tensor:
    return torch.linalg.vector_norm(M, dim=(-2, -1), dtype=torch.float64)


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    return matrices[0][None] if len(matrices) == 1 else torch.stack(list(matrices))


def _rows(stack: Tensor, rows: Sequence[int]) -> Tensor:
    every = list(rows) == list(range(len(stack)))
    return stack if every else _stacked([stack[k] for k in rows])


def _paired_with_labels(g: CocoGroup, batch: slice) -> Iterator[tuple[int, list[int], Tensor]]:
    """Every variable of labels with the places in a batch of the variables that are paired with it, and
    their centered matrices."""
    Kc: Tensor | None = None
    for y in range(len(g.kinds)):
        own = enumerate(g.wanted[batch])
        rows = [k for k, i in own if (i, y) in g.pairs or (y, i) in g.pairs]
        if rows and g.kinds[y] == LABELS:
            Kc = center_stack(g.stack[batch], g.dtype) if Kc is None else Kc
            yield y, rows, _rows(Kc, rows)
