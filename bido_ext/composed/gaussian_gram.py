# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrix of features, by one product."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.composed._panels import Multiply, Variable
from bido_ext.reference.gram_stack import accumulation_dtype
from bido_ext.reference.kernel_entries import GAUSSIAN


def gaussian_gram(
    x: Tensor, gamma: Tensor, minus_one: bool, *, multiply: Multiply = torch.mm
) -> Tensor:
    """The contract of bido_ext.ops.gaussian_gram."""
    with torch.autocast(x.device.type, enabled=False):
        variable = Variable.make(x, gamma, GAUSSIAN, accumulation_dtype(x.dtype), multiply)
        rows = slice(0, x.shape[0])
        if minus_one:
            return variable.entries(rows)
        return variable.distances(rows).mul_(-variable.parameter).exp_()


def gaussian_gram_backward(
    grad: Tensor, gram: Tensor, x: Tensor, gamma: Tensor, minus_one: bool, *,
    multiply: Multiply = torch.mm,
) -> Tensor:  # fmt: skip
    """The contract of bido_ext.ops.gaussian_gram."""
    with torch.autocast(x.device.type, enabled=False):
        variable = Variable.make(x, gamma, GAUSSIAN, accumulation_dtype(x.dtype), multiply)
        E = gram if minus_one else gram - 1
        g = (grad + grad.T) / 2
        return variable.gradient(g, E, slice(0, x.shape[0])).to(x.dtype)
