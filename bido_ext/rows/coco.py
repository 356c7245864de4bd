# SPDX-License-Identifier: Apache-2.0
"""Who serves coco, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.rows._inputs import Layer
from bido_ext.serving.check import Check
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 6


def frobenius_in_float64(arguments: Arguments) -> str | None:
    """What the kernel of the CPU has."""
    if arguments["norm"] != "fro":
        return "the spectral norm"
    return None if arguments["wide"] else "algebra in float32"


def check(f: Functions, x: Tensor, check: Check) -> None:
    """The Frobenius norm of a layer with the input and with labels, and the layer's gradient."""
    layer = Layer(x, check.device)
    pairs = list(layer.first), list(layer.second)
    both = zip(layer.first, layer.second, strict=True)
    wanted = torch.stack([reference.coco(layer.stack[a], layer.stack[b], "fro") for a, b in both])
    g, wanted_grad = layer.wanted_gradient(wanted)
    settings = list(layer.kinds), *pairs, "fro", True, [1]
    values, stack, kept = f["coco"](layer.there, layer.parameters, *settings)
    check.compare("coco", values, wanted.detach(), check.values)
    grads = f["coco_backward"](g, values, layer.there, layer.parameters, stack, kept, *settings)
    check.compare("coco_backward", grads[0], wanted_grad, check.grads)


def backward_of(arguments: Arguments, result: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
    a, (values, stack, kept) = arguments, result
    return (
        values, values, a["variables"], a["parameters"], stack, kept, a["kinds"], a["first"],
        a["second"], a["norm"], a["wide"], a["wanted"],
    )  # fmt: skip


ROW = Row(
    "coco",
    ("coco", "coco_backward"),
    (
        Implementation(
            "cpu",
            (frobenius_in_float64,),
            "Frobenius norm, algebra in float64 (default up to n = 1024)",
        ),
    ),
    composition="composition of gram_stack and torch.linalg",
    check=check,
    backward_of=backward_of,
)
