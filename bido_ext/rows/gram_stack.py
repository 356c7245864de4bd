# SPDX-License-Identifier: Apache-2.0
"""Who serves gram_stack, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import (
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LINEAR,
)
from bido_ext.rows._inputs import noise
from bido_ext.rows._split import split_form
from bido_ext.rows._tma import tma_form
from bido_ext.serving.comparison import TOLERANCES, Check
from bido_ext.serving.limits import narrow_rows, no_float64
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 2


def check(f: Functions, x: Tensor, check: Check) -> None:
    """A stack of three kernels, and the gradients of a random combination of its entries."""
    n, d = x.shape
    # The linear kernel centers half-precision features in float32, whose products may be TF32 then.
    usual = check.values, check.grads
    linear = TOLERANCES["tf32"] if check.tf32 else usual
    allowed = [usual, linear, usual]
    half = max(1, d // 2)
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC]
    parameters = torch.tensor([1 / (50 * d), 1.0, 1.0], dtype=torch.float64)
    wide = [x.to(torch.float64, copy=True).requires_grad_() for _ in kinds]
    views = [wide[0], wide[1][:, :half], wide[2][:, :half]]
    stack = torch.stack(reference.gram_stack(views, parameters, kinds))
    there = [t.to(check.device) for t in (x, x[:, :half], x[:, :half])]
    parameters = parameters.to(check.device)
    got = f["gram_stack"](there, parameters, kinds)
    for i, kind in enumerate(kinds):
        K, wanted_K = got[i], stack[i].detach()
        if (
            kind == LINEAR
        ):  # which depends on where a kernel puts the origin, but for its centered matrix
            K, wanted_K = (reference.double_center(M.double().cpu()) for M in (K, wanted_K))
        check.compare(f"gram_stack, kernel {i}", K, wanted_K, allowed[i][0])
    g = noise(3, n, n)
    g[kinds.index(LINEAR)] = reference.double_center(g[kinds.index(LINEAR)])
    wanted = torch.autograd.grad(stack, wide, g)
    back = f["gram_stack_backward"](g.to(check.device, got.dtype), got, there, parameters, kinds)
    for i, (b, w, v) in enumerate(zip(back, wanted, views, strict=True)):
        check.compare(f"gram_stack_backward, kernel {i}", b, w[:, : v.shape[1]], allowed[i][1])


def backward_of(arguments: Arguments, stack: Tensor) -> tuple[Any, ...]:
    variables, kinds = arguments["variables"], arguments["kinds"]
    features = [i for i, v in enumerate(variables) if v.is_floating_point()]
    matrices = torch.stack([stack[i] for i in features])
    parameters = torch.stack([arguments["parameters"][i] for i in features])
    return (
        matrices, matrices, [variables[i] for i in features], parameters,
        [kinds[i] for i in features],
    )  # fmt: skip


ROW = Row(
    "gram_stack",
    ("gram_stack", "gram_stack_backward"),
    (
        Implementation("cpu"),
        Implementation("triton", (no_float64, narrow_rows)),
        Implementation("cuda", (no_float64,)),
        Implementation("composed"),
        split_form("gram_stack"),
        tma_form("gram_stack"),
    ),
    check=check,
    backward_of=backward_of,
)
