# SPDX-License-Identifier: Apache-2.0
"""HSIC of pairs of a group from row panels of its Gram matrices: whole ones where they are kept.

With rows of the Gram matrices at hand, K' and L' are they less their own row means, and k, l the row sums:
    tr(HKH HLH) = sum K' o L' - (1/n) sum_j (k_j - k_mean)(l_j - l_mean)
    unbiased, off the diagonal: sum K' o L' - n / ((n-1)(n-2)) sum_j (k_j - k_mean)(l_j - l_mean)
Nothing large cancels, so the entries may be float32; sums are float64. Streaming holds a panel of each matrix
and centers few features at a time, so that it keeps to what csrc/common/planner.h has granted to a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.composed._panels import Multiply, Variable, panels
from bido_ext.reference.gram_stack import LABELS, LINEAR, group_dtype
from bido_ext.reference.resolution import far_or_extreme, nan_where_unresolved

#: Panels that are made beside those of the entries, and copies of the features of a product at a time.
PANELS_BESIDE, COPIES_OF_A_SIDE = 6, 4


def hsic(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], unbiased: bool, tile: int, kept_tiles: int, *,
    multiply: Multiply = torch.mm,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The contract of bido_ext.ops.hsic; what is kept are whole matrices, or none."""
    n, dtype, m = variables[0].shape[0], group_dtype(variables, kinds), len(kinds)
    features = [i for i, kind in enumerate(kinds) if kind < LABELS]
    keeps = tile >= n or kept_tiles != 0
    kept = parameters.new_empty((len(features), int(keeps), n, n), dtype=dtype)
    sums, total = parameters.new_empty((m, n)), parameters.new_zeros((len(first),))
    bad = [torch.zeros((), dtype=torch.bool, device=parameters.device) for _ in kinds]
    with torch.autocast(parameters.device.type, enabled=False):
        at_once, chunk = (n, n) if keeps else _bounded(variables, kinds, tile)
        group = _group(variables, parameters, kinds, dtype, multiply, chunk)
        for rows in panels(n, at_once):
            E = [variable.entries(rows) for variable in group]
            for i, entries in enumerate(E):
                bad[i] = bad[i] | far_or_extreme(entries, kinds[i])
                if keeps and i in features:
                    kept[features.index(i), 0, rows] = entries
                if unbiased:
                    entries.diagonal(rows.start).zero_()
                sums[i, rows] = entries.sum(1, dtype=torch.float64)
                entries -= (sums[i, rows] / (n - unbiased)).to(dtype)[:, None]
                if unbiased:
                    entries.diagonal(rows.start).zero_()
            for p, (a, b) in enumerate(zip(first, second, strict=True)):
                total[p] += (E[a] * E[b]).sum(dtype=torch.float64)
        centered = sums - sums.mean(1, keepdim=True)
        cross = (centered[list(first)] * centered[list(second)]).sum(1) if first else total
        if unbiased:
            values = (total - n / ((n - 1) * (n - 2)) * cross) / (n * (n - 3))
        else:
            values = (total - cross / n) / (n - 1) ** 2
    return nan_where_unresolved(values, bad, first, second), sums, kept


def hsic_backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, sums: Tensor, tiles: Tensor,
    kinds: Sequence[int], first: Sequence[int], second: Sequence[int], unbiased: bool, tile: int,
    wanted: Sequence[int], *, multiply: Multiply = torch.mm,
) -> list[Tensor]:  # fmt: skip
    """The contract of bido_ext.ops.hsic."""
    n, dtype = variables[0].shape[0], group_dtype(variables, kinds)
    features = [i for i, kind in enumerate(kinds) if kind < LABELS]
    whole = tiles.numel() > 0
    grads = {i: torch.empty_like(variables[i], dtype=dtype) for i in wanted}
    with torch.autocast(grad.device.type, enabled=False):
        at_once, chunk = (n, n) if whole else _bounded(variables, kinds, tile)
        group = _group(variables, parameters, kinds, dtype, multiply, chunk)
        for rows in panels(n, at_once):
            E = [
                tiles[features.index(i), 0, rows]
                if whole and i in features
                else variable.entries(rows)
                for i, variable in enumerate(group)
            ]
            for own in wanted:
                g = torch.zeros_like(E[own])
                for p, (a, b) in enumerate(zip(first, second, strict=True)):
                    for i, partner in ((a, b), (b, a)):
                        if i == own:
                            part = _gradient(E[partner], sums[partner], rows, unbiased)
                            g.addcmul_(part, grad[p].to(dtype).expand_as(part))
                grads[own][rows] = group[own].gradient(g, E[own], rows)
        for i in wanted:
            if kinds[i] == LINEAR:
                grads[i] -= grads[i].mean(0, keepdim=True)
    return [grads[i].to(variables[i].dtype) for i in wanted]


def _group(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], dtype: torch.dtype,
    multiply: Multiply, chunk: int,
) -> list[Variable]:  # fmt: skip
    return [
        Variable.make(x, parameters[i], kind, dtype, multiply, chunk)
        for i, (x, kind) in enumerate(zip(variables, kinds, strict=True))
    ]


def _bounded(variables: Sequence[Tensor], kinds: Sequence[int], tile: int) -> tuple[int, int]:
    """Rows of a panel, and of features that are centered at a time.

    The plan grants ``tile`` rows of every Gram matrix of features and of one beside them. Half goes to panels
    and what is made beside them, half to features on both sides of a product and their copies.
    """
    n = variables[0].shape[0]
    widths = [v.shape[1] for v, kind in zip(variables, kinds, strict=True) if kind < LABELS]
    half = (len(widths) + 1) * tile // 2  # rows of n entries
    features = max(1, half * n // (2 * COPIES_OF_A_SIDE * max(widths, default=1)))
    return max(1, min(half // (len(kinds) + PANELS_BESIDE), features)), features


def _gradient(L: Tensor, sums: Tensor, rows: slice, unbiased: bool) -> Tensor:
    """Some rows of d hsic(K, L) / dK: L centered, from L and its row sums."""
    n = sums.shape[0]
    if not unbiased:
        means = sums / n
        shift = means[rows, None] - means.mean()
        return (L - shift.to(L.dtype) - means.to(L.dtype)) / (n - 1) ** 2
    means = sums / (n - 2)
    shift = means[rows, None] - sums.sum() / ((n - 1) * (n - 2))
    G = (L - shift.to(L.dtype) - means.to(L.dtype)) / (n * (n - 3))
    G.diagonal(rows.start).zero_()
    return G
