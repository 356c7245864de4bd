# SPDX-License-Identifier: Apache-2.0
"""Ties a gathered variable to the rows that this rank owns.

forward: the rows of all ranks, (n, ...);   backward: world_size times the gradient of the own rows, (n_r, ...)

The factor makes the average over ranks, which DistributedDataParallel and fully_shard take, a sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bido_ext.nn.shards import Shards


class _OwnRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, whole: Tensor, shards: Shards) -> Tensor:
        ctx.shards = shards
        return whole.view_as(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[ctx.shards.own] * ctx.shards.world_size, None, None


def tie_own_rows(own: Tensor, whole: Tensor, shards: Shards) -> Tensor:
    """whole, whose gradient goes to own."""
    return _OwnRows.apply(own, whole, shards) if own.requires_grad else whole
