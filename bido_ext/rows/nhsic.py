# SPDX-License-Identifier: Apache-2.0
"""Who serves nhsic, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import LINEAR
from bido_ext.rows._inputs import Layer
from bido_ext.rows.hsic import MOST_IN_GROUP
from bido_ext.serving.comparison import TOLERANCES, Check
from bido_ext.serving.limits import (
    group_of_at_most,
    no_float64,
    no_tf32,
    samples_at_most,
    samples_more_than,
)
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 5
#: The largest batch that the CUDA kernel takes (csrc/cuda/nhsic_kernel.cu).
MOST_SAMPLES = 128
#: Above, float64 factors are long beside one product.
REFINED_FROM = 1024
#: That of BiDO; a Gram matrix of few samples is not resolved beside it.
EPS, EPS_OF_FEW = 1e-5, 1e-3


def check(f: Functions, x: Tensor, check: Check) -> None:
    """The values of a layer with the input and with labels, and the layer's gradient.

    By algebra in float64 and, where it may serve, in float32.
    """
    layer = Layer(x, check.device)
    eps = EPS if len(x) >= 64 else EPS_OF_FEW
    pairs = list(layer.first), list(layer.second)
    both = zip(layer.first, layer.second, strict=True)
    wanted = torch.stack([reference.nhsic(layer.stack[a], layer.stack[b], eps) for a, b in both])
    g, wanted_grad = layer.wanted_gradient(wanted)
    group = layer.there, layer.parameters
    usual = check.values, check.grads
    # Products of half-precision features are exact, those of float32 algebra are TF32 where that is allowed.
    allowed = {"float64": usual, "float32": TOLERANCES["tf32"] if check.tf32 else usual}
    if x.dtype == torch.float64 or algebra_in_float64 in check.limits:
        del allowed["float32"]
    for algebra, (of_values, of_grads) in allowed.items():
        settings = list(layer.kinds), *pairs, eps
        value, *kept = f["nhsic"](*group, *settings, algebra == "float64", [1])
        # The ridge is of the size of the smallest eigenvalues: it amplifies the rounding of the products.
        check.compare(f"nhsic, {algebra} algebra", value, wanted.detach(), 10 * of_values)
        grads = f["nhsic_backward"](g, *group, *kept, *settings, [1])
        check.compare(f"nhsic_backward, {algebra} algebra", grads[0], wanted_grad, 10 * of_grads)


def backward_of(arguments: Arguments, result: tuple[Tensor, ...]) -> tuple[Any, ...]:
    a, (values, *kept) = arguments, result
    return (
        values, a["variables"], a["parameters"], *kept, a["kinds"], a["first"], a["second"],
        a["eps"], a["wanted"],
    )  # fmt: skip


def algebra_in_float64(arguments: Arguments) -> str | None:
    """The forward is told, the backward sees it by what the forward kept."""
    wide = (
        arguments["wide"] if "wide" in arguments else arguments["inverses"].dtype == torch.float64
    )
    return None if wide else "algebra in float32"


def no_linear(arguments: Arguments) -> str | None:
    """The factor of a linear kernel comes from the features."""
    return "linear kernels" if LINEAR in arguments["kinds"] else None


def bucket(arguments: Arguments) -> str:
    """Algebra in float32 and in float64 are two questions."""
    return "float32 algebra" if algebra_in_float64(arguments) else ""


ROW = Row(
    "nhsic",
    ("nhsic", "nhsic_backward"),
    (
        Implementation(
            "cpu",
            (algebra_in_float64, no_linear),
            "algebra in float64 (default up to n = 1024)",
        ),
        Implementation(
            "cuda",
            (
                no_float64, algebra_in_float64, no_linear,
                group_of_at_most(MOST_IN_GROUP), samples_at_most(MOST_SAMPLES),
            ),
            f"n <= {MOST_SAMPLES}",
        ),
        Implementation("composed", what="Cholesky factors and PyTorch's products"),
        Implementation(
            "sweep",
            module="bido_ext.composed.nhsic_sweep",
            what="a blocked sweep of PyTorch's products",
        ),
        Implementation(
            "refined",
            (samples_more_than(REFINED_FROM), no_float64, no_tf32),
            f"n > {REFINED_FROM}",
            module="bido_ext.composed.nhsic_refined",
            what="float32 Cholesky factors and one step of refinement, of error below 1e-6",
        ),
    ),
    composition="composition of gram_stack and torch.linalg",
    composition_waits=True,
    check=check,
    shapes=((5, 3), (64, 130), (100, 2100), (64, 512)),
    backward_of=backward_of,
    bucket=bucket,
)  # fmt: skip
