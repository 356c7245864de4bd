# SPDX-License-Identifier: Apache-2.0
"""Who serves coco, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.rows._inputs import Layer
from bido_ext.serving.comparison import Check
from bido_ext.serving.limits import samples_at_most
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 6
#: Beyond, its n^3 work may take seconds where float64 is slow.
SQUARED_UP_TO = 1024


def frobenius_in_float64(arguments: Arguments) -> str | None:
    """What the kernel of the CPU has."""
    if arguments["norm"] != "fro":
        return "the spectral norm"
    return None if arguments["wide"] else "algebra in float32"


def spectral_only(arguments: Arguments) -> str | None:
    """What the form of PyTorch's products has beside the composition."""
    return None if arguments["norm"] == "spectral" else "the Frobenius norm"


def bucket(arguments: Arguments) -> str:
    """Each norm, and algebra in float32, are questions of their own."""
    return arguments["norm"] + ("" if arguments["wide"] else ", float32 algebra")


def check(f: Functions, x: Tensor, check: Check) -> None:
    """Both norms of a layer with the input and with labels, and the layer's gradient."""
    layer = Layer(x, check.device)
    pairs = list(layer.first), list(layer.second)
    both = list(zip(layer.first, layer.second, strict=True))
    for norm in ("fro", "spectral"):
        wanted = torch.stack(
            [reference.coco(layer.stack[a], layer.stack[b], norm) for a, b in both]
        )
        g, wanted_grad = layer.wanted_gradient(wanted)
        settings = list(layer.kinds), *pairs, norm, True, [1]
        values, stack, kept = f["coco"](layer.there, layer.parameters, *settings)
        check.compare(f"coco, {norm}", values, wanted.detach(), check.values)
        grads = f["coco_backward"](g, values, layer.there, layer.parameters, stack, kept, *settings)
        check.compare(f"coco_backward, {norm}", grads[0], wanted_grad, check.grads)


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
        Implementation(
            "composed",
            (spectral_only,),
            "spectral norm",
            what="a block Krylov space of PyTorch's products and QR, all pairs at once",
        ),
        Implementation(
            "squared",
            (spectral_only, samples_at_most(SQUARED_UP_TO)),
            f"spectral norm, n <= {SQUARED_UP_TO}",
            module="bido_ext.composed.coco_squared",
            what="repeated squaring by PyTorch's products",
        ),
    ),
    composition="composition of gram_stack and torch.linalg",
    check=check,
    backward_of=backward_of,
    bucket=bucket,
)
