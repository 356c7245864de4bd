# SPDX-License-Identifier: Apache-2.0
"""What the ranks of tests/nn/test_estimator_of_loss.py do: unbiased terms, and features beyond float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import bido_ext as bx

COUNTS = [9, 0, 14]
EXCHANGES = ("gather", "ring")
Batch = tuple[Tensor, list[Tensor], Tensor]


def a_batch(dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(4)
    n = sum(COUNTS)
    x, z1, z2 = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (5, 4, 6))
    y = torch.arange(n) % 3
    z1[:, 0] += y
    return x.to(dtype), [z1.to(dtype), z2.to(dtype)], y


def far_batch() -> Batch:
    """float32 features that float32 Gram matrices do not hold: some pairs are near, most are far apart."""
    x, (z1, z2), y = a_batch()
    z1[::3] += (
        30 * torch.randn(len(z1[::3]), 4, generator=torch.Generator().manual_seed(1)).double()
    )
    return x.float(), [z1.float(), z2.float()], y


def float_targets(batch: Batch) -> Batch:
    x, z, y = batch
    return x, z, torch.nn.functional.one_hot(y, 3).to(x.dtype) * 2


SCENES: dict[str, tuple[dict[str, Any], Any]] = {
    "hsic": ({"measure": "hsic", "estimator": "unbiased"}, a_batch),
    "cka": ({"measure": "cka", "estimator": "unbiased"}, a_batch),
    "cka float32": (
        {"measure": "cka", "estimator": "unbiased"},
        lambda: a_batch(torch.float32),
    ),
    "cka targets": (
        {"measure": "cka", "estimator": "unbiased"},
        lambda: float_targets(a_batch()),
    ),
    "hsic targets": (
        {"measure": "hsic", "estimator": "unbiased"},
        lambda: float_targets(a_batch()),
    ),
    **{
        f"{measure} far": ({"measure": measure, "sigma": 1.0}, far_batch)
        for measure in ("hsic", "cka", "coco", "nhsic")
    },
}


#: Layers that are constant on every rank: the same everywhere, which leaves nothing to compare, or not.
CONSTANT: dict[str, Callable[[Tensor], Tensor]] = {
    "the same": lambda z: torch.full_like(z, 0.3),
    "by rank": lambda z: torch.cat([torch.full_like(t, i) for i, t in enumerate(z.split(COUNTS))]),
}


def of_whole(name: str) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients of the layers in one process, in float64."""
    settings, batch = SCENES[name]
    x, z, y = batch()
    z = [t.double().requires_grad_() for t in z]
    y = y.double() if y.is_floating_point() else y
    value = bx.BiDOLoss(**{"sigma": 0.8, **settings}, lambda_x=0.7, lambda_y=2.0)(x.double(), z, y)
    return value.detach(), list(torch.autograd.grad(value, z))


def by_ranks(rank: int, world_size: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (settings, batch) in SCENES.items():
        x, z, y = batch()
        x, y, *z = (t.split(COUNTS)[rank] for t in (x, y, *z))
        for exchange in EXCHANGES:
            for bound in (None, 3000):
                if bound and settings["measure"] in ("nhsic", "coco"):
                    continue
                own = [t.clone().requires_grad_() for t in z]
                criterion = bx.BiDOLoss(
                    **{"sigma": 0.8, **settings}, lambda_x=0.7, lambda_y=2.0,
                    process_group="world", exchange=exchange, workspace_bytes=bound,
                )  # fmt: skip
                try:
                    value = criterion(x, own, y)
                except ValueError as error:
                    results[f"{name} {exchange} {bound}"] = str(error)
                    continue
                value.backward()
                grads = [t.grad / world_size for t in own]
                results[f"{name} {exchange} {bound}"] = value.detach(), grads
    for name, constant in CONSTANT.items():
        x, z, y = a_batch(torch.float32)
        x, y, layer = (t.split(COUNTS)[rank] for t in (x, y, constant(z[0])))
        for exchange in EXCHANGES:
            criterion = bx.BiDOLoss(
                "cka", estimator="unbiased", process_group="world", exchange=exchange
            )
            try:
                results[f"{name} {exchange}"] = criterion(x, [layer.requires_grad_()], y).item()
            except ValueError as error:
                results[f"{name} {exchange}"] = str(error)
    x, (z1, _), y = a_batch()
    few = slice(0, int(rank < 2) + int(rank == 0))
    try:
        bx.BiDOLoss("hsic", estimator="unbiased", process_group="world")(x[few], [z1[few]], y[few])
    except ValueError as error:
        results["few"] = str(error)
    return results
