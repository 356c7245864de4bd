# SPDX-License-Identifier: Apache-2.0
"""HSIC of pairs of a global batch, each rank from its rows of the Gram matrices: O(n^2 / ranks) each.

own: m times [n_r, d_v], whole: m times [n, d_v] or labels [n]  ->  values: [pairs] float64, the same everywhere
forward:  E_r = E[own rows, :];  exchanged: row sums [m, n_r] and <K_r, L_r> of each pair, one message
backward: grad_r = world_size (A_r x - (A_r 1) x_r), A_r = 4 gamma (d value / dK)_r o K_r, no message

The gradient of a row needs the whole row of A and nothing else, so that what a rank computes is complete. The
symmetric half that one process saves is not saved here. Blocks of rows bound the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bido_ext._float64 import widened
from bido_ext.nn.gram_blocks import (
    gradient_of_gram,
    gram_block,
    nan_if_unresolved,
    needs_float64,
    partner_weights,
    rows_of,
    weight_block,
    without_diagonal,
)
from bido_ext.nn.shards import GroupHandle, Shards
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.plan import row_blocks
from bido_ext.reference.gram_stack import LINEAR


@dataclass(frozen=True)
class Panels:
    """What the function needs beside the own rows.

    Attributes:
        group: The gathered variables, without graph.
        block: Rows of a block; at least those of the rank where the panels are kept for the backward.
    """

    group: Group
    pairs: Pairs
    shards: Shards
    handle: GroupHandle
    block: int
    unbiased: bool = False


def hsic_of_row_panels(
    own: Sequence[Tensor],
    group: Group,
    pairs: Pairs,
    shards: Shards,
    handle: GroupHandle,
    workspace_bytes: int | None = None,
    unbiased: bool = False,
) -> tuple[Tensor, Tensor]:
    """HSIC of each pair of the global batch, float64 [pairs], whose gradient reaches ``own``, and the row
    sums of every Gram matrix, [m, n].

    Args:
        own: This rank's rows of the group's variables, in graph.
        group: The gathered variables; no variable may be a Gram matrix.
        workspace_bytes: Bound on the panels of this rank; default 1 GiB.

    Raises:
        WorkspaceError: Not even one row fits into workspace_bytes.
    """
    rows = shards.counts[shards.rank]
    block, _ = row_blocks(group.n, len(group.kinds), group.dtype.itemsize, rows, workspace_bytes)
    return _RowPanels.apply(Panels(group, pairs, shards, handle, block, unbiased), *own)


class _RowPanels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, panels: Panels, *own: Tensor) -> tuple[Tensor, Tensor]:
        group, shards = panels.group, panels.shards
        count = shards.counts[shards.rank]
        with torch.autocast(group.parameters.device.type, enabled=False):
            sums, products, E = _first_pass(panels)
            if needs_float64(sums, group.kinds, group.dtype):
                group = replace(
                    group, variables=widened(group.variables, group.kinds) or group.variables
                )
                # Entries are twice as wide: the bytes of a block stay.
                m = len(group.kinds)
                block = max(1, panels.block * (4 * m + 24) // (8 * m + 24))
                panels = replace(panels, group=group, block=block)
                sums, products, E = _first_pass(panels)
        # Tensors are saved, not kept: they are freed after the backward, however long the loss lives.
        ctx.panels = replace(panels, group=replace(group, variables=[]))
        ctx.dtypes = [t.dtype for t in own]
        ctx.save_for_backward(sums, *group.variables, *(E if panels.block >= count else ()))
        ctx.mark_non_differentiable(sums)
        return hsic_of_sums(sums, products, panels.pairs, panels.unbiased), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        panels, m = ctx.panels, len(ctx.panels.group.kinds)
        sums, *saved = ctx.saved_tensors
        group, kept = replace(panels.group, variables=saved[:m]), saved[m:]
        shards = panels.shards
        wanted = [v for v, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        grads: list[Tensor | None] = [None] * len(group.kinds)
        start, count = shards.own.start, shards.counts[shards.rank]
        for v in wanted:
            shape = count, group.variables[v].shape[1]
            grads[v] = group.variables[v].new_empty(shape, dtype=ctx.dtypes[v])
        grad = grad * (shards.world_size / normaliser(group.n, panels.unbiased))
        weights = [partner_weights(grad, panels.pairs, v) for v in wanted]
        with torch.autocast(grad.device.type, enabled=False):
            for rows in blocks_of_rows(start, count, panels.block):
                E = kept or _grams(group, rows, panels.unbiased)
                for v, weight in zip(wanted, weights, strict=True):
                    G = gradient_of_gram(weight, E, sums, rows, unbiased=panels.unbiased)
                    G = without_diagonal(G, rows) if panels.unbiased else G
                    G = G.to(group.dtype)
                    here = slice(rows.start - start, rows.stop - start)
                    grads[v][here] = _gradient(G, E[v], group, v, rows)  # type: ignore[index]
        return None, *grads


def blocks_of_rows(start: int, count: int, block: int) -> list[slice]:
    """Slices of at most ``block`` rows from start on."""
    stop = start + count
    return [slice(i, min(i + block, stop)) for i in range(start, stop, block)]


def _first_pass(panels: Panels) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Row sums [m, n], products of the pairs, and the last block of own rows."""
    group, shards = panels.group, panels.shards
    start, count = shards.own.start, shards.counts[shards.rank]
    products = group.parameters.new_zeros((len(panels.pairs.first),))
    sums = products.new_zeros((len(group.kinds), count))
    E: list[Tensor] = []
    for rows in blocks_of_rows(start, count, panels.block):
        E = _grams(group, rows, panels.unbiased)
        for v, gram in enumerate(E):
            here = slice(rows.start - start, rows.stop - start)
            sums[v, here] = gram.sum(1, dtype=torch.float64)
            sums[v, here] += nan_if_unresolved(gram, group.kinds[v])
        for p, (a, b) in enumerate(zip(*panels.pairs, strict=True)):
            products[p] += (E[a] * E[b]).sum(dtype=torch.float64)
    return *exchange_sums(shards, panels.handle, sums, products), E


def _grams(group: Group, rows: slice, unbiased: bool) -> list[Tensor]:
    grams = []
    for v, (x, kind) in enumerate(zip(group.variables, group.kinds, strict=True)):
        whole = rows_of(x, kind, group.dtype)
        parameter = group.parameters[v]
        gram = gram_block(whole.part(rows), whole, rows, parameter, kind, group.dtype)
        grams.append(without_diagonal(gram, rows) if unbiased else gram)
    return grams


def _gradient(G: Tensor, E: Tensor, group: Group, v: int, rows: slice) -> Tensor:
    """Gradient of some rows of a variable from those of its Gram matrix, both (rows, n)."""
    kind = group.kinds[v]
    A = weight_block(G, E, rows, group.parameters[v], kind)
    x = rows_of(group.variables[v], kind, group.dtype).x
    return A @ x if kind == LINEAR else A @ x - A.sum(1, keepdim=True) * x[rows]


def exchange_sums(
    shards: Shards, handle: GroupHandle, sums: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    """Row sums of all rows [m, n], and the products of all ranks added up in rank order."""
    variables = sums.shape[0]
    padded = torch.nn.functional.pad(sums, (0, shards.most - sums.shape[1]))
    message = torch.cat([padded.flatten(), products])
    told = message.new_empty((shards.world_size, message.numel()))
    handle.all_gather(told.view(-1), message)
    every = told[:, : variables * shards.most].unflatten(1, (variables, shards.most))
    rows = [part[:, :count] for part, count in zip(every, shards.counts, strict=True)]
    return torch.cat(rows, 1), told[:, variables * shards.most :].sum(0)


def hsic_of_sums(sums: Tensor, products: Tensor, pairs: Pairs, unbiased: bool = False) -> Tensor:
    """HSIC of each pair from the row sums [m, n] and <K, L> of each pair; float64 [pairs].

    Unbiased: of Gram matrices without their diagonals (Song et al. 2012, equation 5).
    """
    totals, n = sums.sum(1), sums.shape[1]
    first, second = pairs
    cross = (sums[first] * sums[second]).sum(1) * (2 / (n - 2 if unbiased else n))
    both = totals[first] * totals[second]
    values = products - cross + both / ((n - 1) * (n - 2) if unbiased else n**2)
    return values / normaliser(n, unbiased)


def normaliser(n: int, unbiased: bool) -> int:
    """What HSIC is divided by."""
    return n * (n - 3) if unbiased else (n - 1) ** 2
