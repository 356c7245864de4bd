# SPDX-License-Identifier: Apache-2.0
"""What the ranks of tests/nn/test_global_batch.py do, and the single process they are compared with."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

import bido_ext as bx
from bido_ext.nn.shards import GroupHandle

MEASURES = ["hsic", "nhsic", "coco", "cka"]
#: Rows of each rank: an uneven last batch, one rank with a single sample, one with none.
COUNTS = {2: [[13, 7], [10, 10]], 4: [[9, 1, 8, 5], [12, 0, 7, 4]]}
LAYERS = ["1", "3"]
WEIGHTS = {"lambda_x": 0.7, "lambda_y": 2.0}


def a_model(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)
    ).to(dtype)


def a_batch(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, 12, generator=generator, dtype=torch.float64) * 3
    return x.to(dtype), torch.randint(0, 3, (n,), generator=generator)


def settings(measure: str) -> dict[str, Any]:
    return {"measure": measure, **WEIGHTS, "sigma": 0.5}


def single(measure: str, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Value, terms and parameter gradients of the whole batch in one process."""
    model, (x, y) = a_model(dtype), a_batch(n, dtype)
    taps = bx.FeatureTaps(model, LAYERS)
    criterion = bx.BiDOLoss(**settings(measure))
    logits = model(x)
    bido = criterion(x, taps.features, y)
    (F.cross_entropy(logits, y) + bido).backward()
    return bido.detach(), terms(criterion), [p.grad for p in model.parameters()]


def terms(criterion: bx.BiDOLoss) -> Tensor:
    return torch.stack([value for term in criterion.terms.values() for value in term])


@contextmanager
def counted_collectives() -> Iterator[list[int]]:
    """The bytes that this rank receives, collective by collective and, in the ring, tensor by tensor."""
    received: list[int] = []
    original, pass_on = GroupHandle.all_gather, GroupHandle.pass_on

    def counted(self: GroupHandle, output: Tensor, part: Tensor, wait: bool = True) -> Any:
        received.append(output.nbytes - part.nbytes)
        return original(self, output, part, wait)

    def passed(self: GroupHandle, outgoing: list[Tensor], coming: list[Tensor]) -> Any:
        received.extend(t.nbytes for t in coming if t.numel())
        return pass_on(self, outgoing, coming)

    GroupHandle.all_gather, GroupHandle.pass_on = counted, passed  # type: ignore[method-assign]
    try:
        yield received
    finally:
        GroupHandle.all_gather, GroupHandle.pass_on = original, pass_on  # type: ignore[method-assign]


def shard(t: Tensor, counts: list[int], rank: int) -> Tensor:
    return t.split(counts)[rank]


def step(
    rank: int, counts: list[int], measure: str, dtype: torch.dtype, **options: Any
) -> dict[str, Any]:
    """One DDP step on this rank's rows: value, terms, averaged gradients, received bytes."""
    n, world_size = sum(counts), len(counts)
    x, y = (shard(t, counts, rank) for t in a_batch(n, dtype))
    model = a_model(dtype)
    taps = bx.FeatureTaps(model, LAYERS)
    parallel = DistributedDataParallel(model)
    criterion = bx.BiDOLoss(**settings(measure), process_group=dist.group.WORLD, **options)
    logits = parallel(x)
    with counted_collectives() as forward:
        bido = criterion(x, taps.features, y)
    with counted_collectives() as backward:
        share = world_size / (criterion.samples or n)
        (F.cross_entropy(logits, y, reduction="sum") * share + bido).backward()
    return {
        "value": bido.detach(),
        "terms": terms(criterion),
        "grads": [p.grad for p in model.parameters()],
        "forward": forward,
        "backward": backward,
        "samples": criterion.samples,
    }


def float32_features(n: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """A float32 batch with features of two layers, the same bits for ranks and single process."""
    x, y = a_batch(n, torch.float32)
    generator = torch.Generator().manual_seed(6)
    return x, [torch.rand(n, d, generator=generator) for d in (9, 6)], y


def float32_step(rank: int, counts: list[int], measure: str, **options: Any) -> dict[str, Any]:
    """Value, terms, gradients of the own rows and received bytes, straight from features."""
    x, layers, y = float32_features(sum(counts))
    z = [shard(layer, counts, rank).clone().requires_grad_() for layer in layers]
    criterion = bx.BiDOLoss(**settings(measure), process_group=dist.group.WORLD, **options)
    with counted_collectives() as received, FlopCounterMode(display=False) as counter:
        value = criterion(shard(x, counts, rank), z, shard(y, counts, rank))
        value.backward()
    return {
        "value": value.detach(),
        "terms": terms(criterion),
        "grads": [t.grad / len(counts) for t in z],
        "forward": received,
        "backward": [],
        "flops": counter.get_total_flops(),
    }


def all_steps(rank: int, world_size: int) -> dict[str, Any]:
    """Every scenario in one set of processes, since starting them takes longest."""
    results: dict[str, Any] = {}
    for counts in COUNTS[world_size]:
        for measure in MEASURES:
            results[f"{measure} {counts}"] = step(rank, counts, measure, torch.float64)
            results[f"{measure} {counts} float32"] = float32_step(rank, counts, measure)
    counts = COUNTS[world_size][0]
    bounded = {"workspace_bytes": 3000, "exchange": "gather"}
    results["blocks"] = step(rank, counts, "hsic", torch.float64, **bounded)
    results["local"] = step(rank, [8] * world_size, "hsic", torch.float64, local=True)
    results["micro"] = [micro_step(rank, each) for each in COUNTS[world_size]]
    results["refusals"] = refusals(rank)
    results["kernels"] = kernels(rank, counts)
    results["kept"] = kept_after_the_backward(rank, counts)
    results["alone"] = warnings_of_a_lone_rank(rank, counts)
    if world_size == 2:
        results["fully_shard"] = fully_sharded(rank, counts)
        results["compiled"] = compiled_value(rank, counts)
    return results


def micro_step(rank: int, counts: list[int], **options: Any) -> list[Tensor]:
    """Task loss and averaged parameter gradients of a step in micro-batches of 4 under DDP."""
    x, y = (shard(t, counts, rank) for t in a_batch(sum(counts), torch.float64))
    model = a_model(torch.float64)
    taps = bx.FeatureTaps(model, LAYERS)
    criterion = bx.BiDOLoss(**settings("hsic"), process_group=dist.group.WORLD, **options)
    parallel = DistributedDataParallel(model)
    losses = bx.MicroBatchedBiDO(parallel, taps, criterion, 4).backward(x, y)
    return [losses.task, *(p.grad for p in model.parameters())]


def compiled_value(rank: int, counts: list[int], **options: Any) -> dict[str, Tensor]:
    """Value and gradient under torch.compile, where the exchange breaks the graph."""
    x, layers, y = float32_features(sum(counts))
    z = [shard(layer, counts, rank).clone().requires_grad_() for layer in layers]
    criterion = bx.BiDOLoss(**settings("hsic"), process_group=dist.group.WORLD, **options)
    compiled = torch.compile(lambda *step: 2 * criterion(*step), backend="eager")
    value = compiled(shard(x, counts, rank), z, shard(y, counts, rank))
    value.backward()
    return {"value": value.detach() / 2, "grad": z[0].grad / (2 * len(counts))}


def refusals(rank: int) -> dict[str, str]:
    """What this rank raises where only the last one is at fault."""
    last = rank == dist.get_world_size() - 1
    x, y, z = torch.rand(4, 3), torch.arange(4) % 2, torch.rand(4, 5)
    cases = {
        "labels": (x, [z], y - 1 if last else y),
        "layers": (x, [z, z] if last else [z], y),
        "widths": (x, [z[:, :4] if last else z], y),
        "not a tensor": ("x" if last else x, [z], y),
        "empty": (x[:0], [z[:0]], y[:0]),
        "not finite": (x, [z * float("nan") if last else z], y),
    }
    criterion = bx.BiDOLoss("hsic", process_group="world")
    others: dict[str, Any] = {
        "layer names": (criterion, (x, {"ab"[last]: z, "ba"[last]: z}, y)),
        "eps": (
            bx.BiDOLoss("nhsic", eps=1e-2 if last else 1e-5, process_group="world"),
            (x, [z], y),
        ),
    }
    said = {}
    for name, (criterion, arguments) in {
        **{name: (criterion, arguments) for name, arguments in cases.items()},
        **others,
    }.items():
        try:
            criterion(*arguments)
            said[name] = "accepted"
        except ValueError as error:
            said[name] = str(error)
    return said


def kept_after_the_backward(rank: int, counts: list[int]) -> int:
    """How many gathered tensors live on with the loss."""
    gathered: list[weakref.ref[Tensor]] = []
    original = GroupHandle.all_gather

    def watched(self: GroupHandle, output: Tensor, part: Tensor, wait: bool = True) -> Any:
        gathered.append(weakref.ref(output.untyped_storage()))
        return original(self, output, part, wait)

    x, layers, y = float32_features(sum(counts))
    z = [shard(layer, counts, rank).clone().requires_grad_() for layer in layers]
    criterion = bx.BiDOLoss("hsic", 1.0, 1.0, process_group="world", exchange="gather")
    GroupHandle.all_gather = watched  # type: ignore[method-assign]
    try:
        value = criterion(shard(x, counts, rank), z, shard(y, counts, rank))
    finally:
        GroupHandle.all_gather = original  # type: ignore[method-assign]
    value.backward()
    # Gloo's thread drops its own reference only after wait() has returned; a leak outlives any wait.
    deadline = time.monotonic() + 5
    while (alive := sum(storage() is not None for storage in gathered)) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    return alive


def warnings_of_a_lone_rank(rank: int, counts: list[int]) -> list[str]:
    """What a loss says that nobody told of the other ranks, and one that was told to be alone."""
    x, layers, y = float32_features(12)
    layers = [z.requires_grad_() for z in layers]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for criterion in (bx.BiDOLoss("hsic"), bx.BiDOLoss("hsic", local=True)):
            for _ in range(2):
                criterion(x, layers, y)
    return [str(warning.message) for warning in said]


class Product(bx.Kernel):
    """A kernel of the user's own."""

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        return x @ x.T


def kernels(rank: int, counts: list[int]) -> dict[str, Tensor]:
    """Value and gradient with other kernels on float targets; Product has no row form."""
    results = {}
    for kernel in (bx.Linear(), bx.InverseMultiquadric(), Product()):
        x, z, y = (shard(t, counts, rank) for t in kernel_batch(sum(counts)))
        z = z.clone().requires_grad_()
        criterion = bx.BiDOLoss("cka", kernel_y=kernel, process_group=dist.group.WORLD)
        value = criterion(x, [z], y)
        (grad,) = torch.autograd.grad(value, z)
        name = type(kernel).__name__
        results |= {f"{name} value": value.detach(), f"{name} grad": grad / len(counts)}
    return results


def kernel_batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    widths = (4, 6, 2)
    return tuple(torch.rand(n, d, generator=generator, dtype=torch.float64) for d in widths)  # type: ignore[return-value]


def fully_sharded(rank: int, counts: list[int], **options: Any) -> list[Tensor]:
    """Parameter gradients under FSDP2, gathered."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    n = sum(counts)
    mesh = init_device_mesh("cpu", (len(counts),))
    x, y = (shard(t, counts, rank) for t in a_batch(n, torch.float64))
    model = a_model(torch.float64)
    taps = bx.FeatureTaps(model, LAYERS)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    criterion = bx.BiDOLoss(**settings("hsic"), process_group=mesh, **options)
    logits = model(x)
    loss = F.cross_entropy(logits, y, reduction="sum") * len(counts) / n
    (loss + criterion(x, taps.features, y)).backward()
    return [p.grad.full_tensor() for p in model.parameters()]
