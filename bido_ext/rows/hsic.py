# SPDX-License-Identifier: Apache-2.0
"""Who serves hsic, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.rows._inputs import Layer
from bido_ext.rows._split import split_form
from bido_ext.rows._tma import tma_form
from bido_ext.serving.comparison import Check
from bido_ext.serving.limits import group_of_at_most, narrow_rows, no_float64
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 4
#: Most variables and most pairs of a group (csrc/cuda/hsic_entries.cuh).
MOST_IN_GROUP = 64
#: Columns for each row up to which the check streams too.
MOST_COLUMNS_A_ROW = 4


def check(f: Functions, x: Tensor, check: Check) -> None:
    """Both estimators, dense and streaming, and the gradient of a layer that two pairs share."""
    layer, (n, d) = Layer(x, check.device), x.shape
    dense, streaming = (n, -1), (max(2, n // 2), 0)
    # Few rows of many columns are not what streaming is for: it takes them row by row, for seconds.
    ways = (dense, streaming) if d <= MOST_COLUMNS_A_ROW * n else (dense,)
    pairs = list(layer.first), list(layer.second)
    group = layer.there, layer.parameters, list(layer.kinds), *pairs
    for unbiased in (False, True):
        both = zip(layer.first, layer.second, strict=True)
        wanted = torch.stack(
            [reference.hsic(layer.stack[a], layer.stack[b], unbiased) for a, b in both]
        )
        g, wanted_grad = layer.wanted_gradient(wanted)
        for tile, kept in ways:
            value, sums, tiles = f["hsic"](*group, unbiased, tile, kept)
            # The unbiased value is a small difference of sums.
            allowed = 10 * check.values if unbiased else check.values
            check.compare("hsic", value, wanted.detach(), allowed)
            grads = f["hsic_backward"](
                g, layer.there, layer.parameters, sums, tiles, list(layer.kinds), *pairs,
                unbiased, tile, [1],
            )  # fmt: skip
            check.compare("hsic_backward", grads[0], wanted_grad, check.grads)


def backward_of(arguments: Arguments, result: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
    a, (values, sums, tiles) = arguments, result
    wanted = [i for i, v in enumerate(a["variables"]) if v.is_floating_point()]
    return (
        values, a["variables"], a["parameters"], sums, tiles, a["kinds"], a["first"], a["second"],
        a["unbiased"], a["tile"], wanted,
    )  # fmt: skip


def not_streaming(arguments: Arguments) -> str | None:
    """The Gram matrices of the features are kept."""
    n, tile = arguments["variables"][0].shape[0], arguments["tile"]
    return f"streaming, in panels of {tile} rows" if tile < n else None


ROW = Row(
    "hsic",
    ("hsic", "hsic_backward"),
    (
        Implementation("cpu"),
        Implementation("triton", (no_float64, narrow_rows)),
        Implementation("cuda", (no_float64, group_of_at_most(MOST_IN_GROUP))),
        Implementation("composed"),
        split_form("hsic"),
        tma_form("hsic", not_streaming),
    ),
    check=check,
    backward_of=backward_of,
)
