# SPDX-License-Identifier: Apache-2.0
"""What the two ranks of tests/nn/test_loss_of_ranks.py do."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from global_batch import LAYERS, MEASURES, a_batch, a_model, float32_features, shard
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bido_ext as bx

COUNTS = [13, 7]
#: Settings of BiDOLoss beside the measure, by a name.
SETTINGS: dict[str, dict[str, Any]] = {
    "kernel_x": {"kernel_x": bx.InverseMultiquadric()},
    "kernel_z": {"kernel_z": bx.InverseMultiquadric(), "sigma": 2.0},
    "sigma": {"sigma": {"0": 0.5, "1": 3.0}},
    "linear": {"kernel_z": bx.Linear()},
}


def features(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor], Tensor]:
    x, layers, y = float32_features(sum(COUNTS))
    return x.to(dtype), [z.to(dtype) for z in layers], y


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 3).double()


def all_steps(rank: int, world_size: int) -> dict[str, Any]:
    """Every scenario in one set of processes, since starting them takes longest."""
    results: dict[str, Any] = {}
    for how in ("gather", "ring"):
        for measure in MEASURES:
            for name in SETTINGS:
                if (how, name) != ("ring", "linear"):
                    results[f"{name} {measure} {how}"] = a_step(
                        rank, measure, how, **SETTINGS[name]
                    )
            results[f"one-hot {measure} {how}"] = a_step(rank, measure, how, soft=True)
        results[f"lone {how}"] = lone_sample(rank, how)
        results[f"warm-up {how}"] = warmed_up(rank, how)
        results[f"micro {how}"] = micro_batches(rank, how)
        for measure in MEASURES:
            results[f"regression {measure} {how}"] = regression(rank, measure, how)
    results["linear auto"] = a_step(
        rank, "hsic", "auto", workspace_bytes=2000, **SETTINGS["linear"]
    )
    results["refused"] = refused_ring(rank)
    results["pickled"] = pickled(rank)
    results["unused"] = unused_parameters()
    return results


def a_step(
    rank: int, measure: str, how: str, soft: bool = False, **options: Any
) -> dict[str, Tensor]:
    x, layers, y = features()
    y = one_hot(y) if soft else y
    z = [shard(t, COUNTS, rank).clone().requires_grad_() for t in layers]
    criterion = bx.BiDOLoss(measure, 0.7, 2.0, process_group="world", exchange=how, **options)
    value = criterion(shard(x, COUNTS, rank), z, shard(y, COUNTS, rank))
    grads = torch.autograd.grad(value, z)
    return {"value": value.detach(), "grads": [g / len(COUNTS) for g in grads]}  # type: ignore[dict-item]


def targets_of_regression() -> Tensor:
    """Far from 1 in scale, and of rank far below n."""
    return 30 * torch.randn(sum(COUNTS), 2, generator=torch.Generator().manual_seed(8)) + 100


def regression(rank: int, measure: str, how: str) -> dict[str, Any]:
    """float32 features and targets under the default kernel."""
    x, layers, _ = features(torch.float32)
    z = shard(layers[0], COUNTS, rank).clone().requires_grad_()
    criterion = bx.BiDOLoss(measure, 0.0, 1.0, process_group="world", exchange=how)
    value = criterion(shard(x, COUNTS, rank), [z], shard(targets_of_regression(), COUNTS, rank))
    value.backward()
    return {"value": value.detach(), "grad": z.grad / len(COUNTS)}  # type: ignore[operator]


def lone_sample(rank: int, how: str) -> dict[str, Any]:
    """One sample over all ranks."""
    x, (z, _), y = features()
    rows = slice(0, 1) if rank == 0 else slice(0, 0)
    z = z[rows].clone().requires_grad_()
    criterion = bx.BiDOLoss("hsic", process_group="world", exchange=how)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = criterion(x[rows], [z], y[rows])
    value.backward()
    return {"value": value.detach(), "grad": z.grad, "said": [str(w.message) for w in said]}


def warmed_up(rank: int, how: str) -> list[float]:
    x, z, y = (shard(t, COUNTS, rank) for t in (features()[0], features()[1][0], features()[2]))
    z = z.clone().requires_grad_()
    criterion = bx.BiDOLoss("cka", process_group="world", exchange=how, warmup_steps=2)
    values = []
    for _ in range(3):
        value = criterion(x, [z], y)
        (grad,) = torch.autograd.grad(value, z)
        values += [float(value.detach()), float(grad.norm())]
    return values


def micro_batches(rank: int, how: str) -> list[Tensor]:
    """Parameter gradients of a step with one-hot targets."""
    x, y = (shard(t, COUNTS, rank) for t in a_batch(sum(COUNTS), torch.float64))
    model = a_model(torch.float64)
    taps = bx.FeatureTaps(model, LAYERS)
    criterion = bx.BiDOLoss("hsic", 0.7, 2.0, 0.5, process_group="world", exchange=how)
    parallel = DistributedDataParallel(model)
    bx.MicroBatchedBiDO(parallel, taps, criterion, 4).backward(x, one_hot(y))
    return [p.grad for p in model.parameters()]  # type: ignore[misc]


def refused_ring(rank: int) -> str:
    try:
        a_step(rank, "hsic", "ring", **SETTINGS["linear"])
    except ValueError as error:
        return str(error)
    return "accepted"


def pickled(rank: int) -> dict[str, Any]:
    """Copies of losses that have made a step, and the values they give."""
    x, z, y = features()
    own = shard(x, COUNTS, rank), [shard(z[0], COUNTS, rank)], shard(y, COUNTS, rank)
    results: dict[str, Any] = {}
    for name, group in {"text": "world", "group": dist.group.WORLD}.items():
        criterion = bx.BiDOLoss("hsic", process_group=group)
        results[name] = [criterion(*own)]
        file = io.BytesIO()
        torch.save(criterion, file)
        file.seek(0)
        for other in (
            pickle.loads(pickle.dumps(criterion)),
            copy.deepcopy(criterion),
            torch.load(file, weights_only=False),
        ):
            results[name].append(other(*own))
    some = bx.BiDOLoss("hsic", process_group=dist.new_group([0, 1]))
    results["some ranks"] = [some(*own), copy.deepcopy(some)(*own)]
    try:
        pickle.dumps(some)
    except TypeError as error:
        results["error"] = str(error)
    return results


class WithAuxiliary(nn.Module):
    """A head whose output is tapped, but not returned (or is)."""

    def __init__(self, returns: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body, self.head, self.auxiliary = nn.Linear(12, 9), nn.Linear(9, 3), nn.Linear(9, 4)
        self.returns = returns

    def forward(self, x: Tensor) -> Any:
        z = torch.tanh(self.body(x))
        auxiliary = self.auxiliary(z)
        return (self.head(z), auxiliary) if self.returns else self.head(z)


def unused_parameters() -> dict[str, str]:
    """What the documents say of find_unused_parameters."""
    said = {}
    for returns in (False, True):
        for find in (False, True):
            model = WithAuxiliary(returns)
            taps = bx.FeatureTaps(model, ["auxiliary"])
            parallel = DistributedDataParallel(model, find_unused_parameters=find)
            criterion = bx.BiDOLoss("hsic", process_group="world")
            x, y = a_batch(8, torch.float32)
            output = parallel(x)
            logits = output[0] if returns else output
            try:
                (F.cross_entropy(logits, y) + criterion(x, taps.features, y)).backward()
                said[f"{returns} {find}"] = "fine"
            except RuntimeError as error:
                said[f"{returns} {find}"] = str(error)
    return said
