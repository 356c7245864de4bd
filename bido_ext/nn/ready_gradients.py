# SPDX-License-Identifier: Apache-2.0
"""A number whose gradients are known already.

value: 0-d, own: tensors, ready: their gradients, of the same shapes  ->  value, in graph
backward: incoming gradient times ready, in own's dtype
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Ready(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, ready: Sequence[Tensor], *own: Tensor) -> Tensor:
        ctx.save_for_backward(*ready)
        ctx.dtypes = [t.dtype for t in own]
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return None, None, *((g * grad.to(g.dtype)).to(dtype) for g, dtype in saved)


def with_ready_gradients(value: Tensor, own: Sequence[Tensor], ready: Sequence[Tensor]) -> Tensor:
    """value, without graph, whose backward gives each of ``own`` its gradient in ``ready``."""
    return _Ready.apply(value, ready, *own) if own else value
