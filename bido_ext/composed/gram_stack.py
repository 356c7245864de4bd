# SPDX-License-Identifier: Apache-2.0
"""The Gram matrices up to centering of a group, one product each, written into one stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.composed._panels import Multiply, Variable
from bido_ext.reference.gram_stack import LINEAR, group_dtype


def gram_stack(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], *,
    multiply: Multiply = torch.mm,
) -> Tensor:  # fmt: skip
    """The contract of bido_ext.ops.gram_stack."""
    dtype, n = group_dtype(variables, kinds), variables[0].shape[0]
    stack = parameters.new_empty((len(kinds), n, n), dtype=dtype)
    with torch.autocast(parameters.device.type, enabled=False):
        for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
            variable = Variable.make(x, parameters[i], kind, dtype, multiply)
            stack[i] = variable.entries(slice(0, n))
    return stack


def gram_stack_backward(
    grad: Tensor, stack: Tensor, variables: Sequence[Tensor], parameters: Tensor,
    kinds: Sequence[int], *, multiply: Multiply = torch.mm,
) -> list[Tensor]:  # fmt: skip
    """The contract of bido_ext.ops.gram_stack."""
    n, grads = stack.shape[-1], []
    with torch.autocast(grad.device.type, enabled=False):
        for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
            variable = Variable.make(x, parameters[i], kind, stack.dtype, multiply)
            symmetric = (grad[i] + grad[i].T) / 2
            g = variable.gradient(symmetric, stack[i], slice(0, n))
            if kind == LINEAR:
                g -= g.mean(0, keepdim=True)
            grads.append(g.to(x.dtype))
    return grads
