# SPDX-License-Identifier: Apache-2.0
"""What the ranks of tests/nn/test_sigma_of_ranks.py do, and the single process they are compared with."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import bido_ext as bx

COUNTS = [13, 7]
MEASURES = ["hsic", "nhsic", "coco", "cka"]
OFFSET = 3e3


def a_batch(dtype: torch.dtype) -> tuple[Tensor, list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    n = sum(COUNTS)
    x, z1, z2, y = (torch.randn(n, d, generator=generator) for d in (5, 4, 6, 2))
    z1[:, :2] += y
    return (
        x.to(dtype),
        [(z1 + (OFFSET if dtype.itemsize > 2 else 0)).to(dtype), z2.to(dtype)],
        y.to(dtype),
    )


def a_loss(measure: str, **options: Any) -> bx.BiDOLoss:
    sigma = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
    of_y = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    return bx.BiDOLoss(
        measure, 0.7, 2.0, sigma=sigma, kernel_y=bx.Gaussian(of_y), eps=1e-2, **options
    )


def learnt(measure: str, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients by the bandwidths of the whole batch."""
    x, z, y = a_batch(dtype)
    criterion = a_loss(measure)
    value = criterion(x, z, y)
    value.backward()
    return value.detach(), [s.grad for s in criterion.parameters()]


def learnt_by_ranks(rank: int, world_size: int) -> dict[str, Any]:
    """The same from this rank's rows; gradients averaged over the ranks."""
    results = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, z, y = a_batch(dtype)
        x, y, *z = (t.split(COUNTS)[rank] for t in (x, y, *z))
        for measure in MEASURES:
            for exchange in ("gather", "ring"):
                criterion = a_loss(measure, process_group="world", exchange=exchange)
                value = criterion(x, z, y)
                value.backward()
                grads = [s.grad for s in criterion.parameters()]
                for grad in grads:
                    dist.all_reduce(grad)
                results[f"{measure} {exchange} {dtype}"] = (
                    value.detach(),
                    [g / world_size for g in grads],
                )
    results["median"] = median(rank)
    results["differs"] = one_learns(rank)
    return results


def median(rank: int) -> list[Tensor]:
    """Values with the median bandwidth of all ranks' samples, of gathered features."""
    x, z, y = a_batch(torch.float64)
    if rank >= 0:
        x, y, *z = (t.split(COUNTS)[rank] for t in (x, y, *z))
    values = []
    for measure in MEASURES:
        options = {} if rank < 0 else {"process_group": "world"}
        criterion = bx.BiDOLoss(measure, sigma="median", eps=1e-2, **options)
        values.append(criterion(x, [t.clone().requires_grad_() for t in z], y).detach())
    return values


def one_learns(rank: int) -> str:
    """What all ranks say where one of them alone learns its bandwidth."""
    x, z, y = a_batch(torch.float32)
    x, y, *z = (t.split(COUNTS)[rank] for t in (x, y, *z))
    sigma = torch.tensor(0.8, requires_grad=rank == 0)
    try:
        bx.BiDOLoss("hsic", sigma=sigma, process_group="world")(x, z, y)
    except ValueError as error:
        return str(error)
    return "accepted"
