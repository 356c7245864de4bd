# SPDX-License-Identifier: Apache-2.0
"""Who serves gaussian_gram, and how it is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.rows._inputs import noise
from bido_ext.rows._split import split_form
from bido_ext.rows._tma import tma_form
from bido_ext.serving.comparison import Check
from bido_ext.serving.limits import narrow_rows, no_float64
from bido_ext.serving.row import Arguments, Functions, Implementation, Row

POSITION = 1


def check(f: Functions, x: Tensor, check: Check) -> None:
    """K - 1 and the gradient of a random combination of its entries."""
    n, d = x.shape
    gamma = torch.tensor(1 / (2 * 25 * d), dtype=torch.float64)
    wide = x.to(torch.float64, copy=True).requires_grad_()
    K = reference.gaussian_gram(wide, gamma, True)
    there = x.to(check.device), gamma.to(check.device), True
    got = f["gaussian_gram"](*there)
    check.compare("gaussian_gram", got, K.detach(), check.values)
    if "gaussian_gram_backward" in f:
        g = noise(n, n)
        (wanted,) = torch.autograd.grad(K, wide, g)
        back = f["gaussian_gram_backward"](g.to(check.device, got.dtype), got, *there)
        check.compare("gaussian_gram_backward", back, wanted, check.grads)


def backward_of(arguments: Arguments, gram: Tensor) -> tuple[Any, ...]:
    return gram, gram, arguments["x"], arguments["gamma"], arguments["minus_one"]


ROW = Row(
    "gaussian_gram",
    ("gaussian_gram", "gaussian_gram_backward"),
    (
        Implementation("cpu"),
        Implementation("triton", (no_float64, narrow_rows)),
        Implementation("cuda", (no_float64,)),
        Implementation("composed"),
        split_form("gaussian_gram"),
        tma_form("gaussian_gram"),
    ),
    features="x",
    check=check,
    backward_of=backward_of,
)
