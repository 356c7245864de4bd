# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrix of features, by one product."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.composed._panels import Variable
from bido_ext.reference.gram_stack import accumulation_dtype
from bido_ext.reference.kernel_entries import GAUSSIAN


def gaussian_gram(x: Tensor, gamma: Tensor, minus_one: bool) -> Tensor:
    """The contract of bido_ext.ops.gaussian_gram."""
    with torch.autocast(x.device.type, enabled=False):
        variable = Variable.make(x, gamma, GAUSSIAN, accumulation_dtype(x.dtype))
        D = variable.distances(slice(0, x.shape[0]))
        exponent = D.mul_(-variable.parameter)
        return exponent.expm1_() if minus_one else exponent.exp_()


def gaussian_gram_backward(
    grad: Tensor, gram: Tensor, x: Tensor, gamma: Tensor, minus_one: bool
) -> Tensor:
    """The contract of bido_ext.ops.gaussian_gram."""
    with torch.autocast(x.device.type, enabled=False):
        variable = Variable.make(x, gamma, GAUSSIAN, accumulation_dtype(x.dtype))
        E = gram if minus_one else gram - 1
        g = (grad + grad.T) / 2
        return variable.gradient(g, E, slice(0, x.shape[0])).to(x.dtype)
