# SPDX-License-Identifier: Apache-2.0
"""What the ranks of tests/nn/test_ring.py do: the scenarios of the global batch with features in a ring."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from global_batch import (
    COUNTS,
    MEASURES,
    compiled_value,
    counted_collectives,
    float32_features,
    float32_step,
    fully_sharded,
    kernel_batch,
    micro_step,
    settings,
    shard,
    step,
    terms,
)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import bido_ext as bx
from bido_ext.nn import ring_grams
from bido_ext.nn.shards import GroupHandle

#: Blocks of some rows of every variable fit, whole panels do not.
BOUND = 2000
#: For the peak of memory: features far wider than the batch.
WIDE_ROWS, WIDE = 16, 4096
RING = {"exchange": "ring"}


def ring_steps(rank: int, world_size: int) -> dict[str, Any]:
    """Every scenario in one set of processes, since starting them takes longest."""
    results: dict[str, Any] = {}
    for counts in COUNTS[world_size]:
        for measure in MEASURES:
            results[f"{measure} {counts}"] = step(rank, counts, measure, torch.float64, **RING)
            results[f"{measure} {counts} float32"] = float32_step(rank, counts, measure, **RING)
        for measure in ("hsic", "cka"):
            bounded = {"workspace_bytes": BOUND, **RING}
            results[f"{measure} {counts} bounded"] = float32_step(rank, counts, measure, **bounded)
    counts = COUNTS[world_size][0]
    results["micro"] = micro_step(rank, counts, **RING)
    results["weights"] = other_weights(rank, counts)
    results["wanted"] = wanted_by_some(rank, counts)
    results["targets"] = float_targets(rank, counts)
    results["half"] = half_precision(rank, counts)
    results["choices"] = choices(rank, counts)
    results["refusals"] = refusals(rank, counts)
    results["events"] = {m: events(rank, counts, m) for m in ("hsic", "coco")}
    results["peak"] = {how: peak(how) for how in ("gather", "ring")}
    if world_size == 2:
        results["fully_shard"] = fully_sharded(rank, counts, **RING)
        results["compiled"] = compiled_value(rank, counts, **RING)
    return results


def own_features(rank: int, counts: list[int]) -> tuple[Tensor, list[Tensor], Tensor]:
    x, layers, y = float32_features(sum(counts))
    z = [shard(layer, counts, rank).clone().requires_grad_() for layer in layers]
    return shard(x, counts, rank), z, shard(y, counts, rank)


def other_weights(rank: int, counts: list[int]) -> dict[str, Any]:
    """Weights of 0: values, messages, and whether a gradient is there."""
    results: dict[str, Any] = {}
    for name, pair in {"none": (0.0, 0.0), "labels": (0.0, 2.0), "input": (0.7, 0.0)}.items():
        x, z, y = own_features(rank, counts)
        criterion = bx.BiDOLoss("cka", *pair, 0.5, process_group=dist.group.WORLD, **RING)
        with counted_collectives() as received:
            value = criterion(x, z, y)
        results[name] = {"value": value.detach(), "terms": terms(criterion), "received": received}
        if value.requires_grad:
            # A loss scale, as GradScaler's.
            (8 * value).backward()
            results[name]["grads"] = [t.grad / (8 * len(counts)) for t in z]
    return results


def wanted_by_some(rank: int, counts: list[int]) -> dict[str, Any]:
    """The last rank wants no gradient, the first wants that of its second layer and of the input only."""
    x, z, y = own_features(rank, counts)
    first, last = rank == 0, rank == len(counts) - 1
    if first:
        x, z = x.clone().requires_grad_(), [z[0].detach(), z[1]]
    results: dict[str, Any] = {}
    for measure in MEASURES:
        criterion = bx.BiDOLoss(**settings(measure), process_group=dist.group.WORLD, **RING)
        wanted = [t for t in (x, *z) if t.requires_grad]
        with torch.no_grad() if last else nullcontext():
            value = criterion(x, z, y)
        results[measure] = {"value": value.detach()}
        assert value.requires_grad != last
        if not last:
            grads = torch.autograd.grad(value, wanted)
            results[measure]["grads"] = [g / len(counts) for g in grads]
    return results


def float_targets(rank: int, counts: list[int]) -> dict[str, Tensor]:
    """Targets of every kernel, whose gradient is wanted as well."""
    results = {}
    for name in ("Gaussian", "Linear", "InverseMultiquadric"):
        for measure in MEASURES:
            x, z, y = (shard(t, counts, rank) for t in kernel_batch(sum(counts)))
            z, y = z.clone().requires_grad_(), y.clone().requires_grad_()
            kernel = getattr(bx, name)()
            criterion = bx.BiDOLoss(
                measure, kernel_y=kernel, process_group=dist.group.WORLD, **RING
            )
            value = criterion(x, [z], y)
            grads = torch.autograd.grad(value, [z, y])
            results[f"{name} {measure}"] = value.detach()
            results[f"{name} {measure} z"], results[f"{name} {measure} y"] = (
                g / len(counts) for g in grads
            )
    return results


def half_precision(rank: int, counts: list[int]) -> dict[str, Any]:
    """bfloat16 features under autocast."""
    x, z, y = own_features(rank, counts)
    z = [t.detach().bfloat16().requires_grad_() for t in z]
    criterion = bx.BiDOLoss(**settings("hsic"), process_group=dist.group.WORLD, **RING)
    with torch.autocast("cpu", torch.bfloat16), counted_collectives() as received:
        value = criterion(x, z, y)
    value.backward()
    return {
        "value": value.detach(),
        "grads": [t.grad / len(counts) for t in z],
        "received": received,
    }


def choices(rank: int, counts: list[int]) -> dict[str, list[int]]:
    """Tensors received where the exchange is left to the loss."""
    x, z, y = own_features(rank, counts)
    received = {}

    def counted(name: str, **options: Any) -> None:
        criterion = bx.BiDOLoss(**settings("hsic"), process_group=dist.group.WORLD, **options)
        with counted_collectives() as received[name], torch.no_grad():
            criterion(x, z, y)

    counted("auto")
    counted("workspace", workspace_bytes=BOUND)
    counted("roomy", workspace_bytes=1 << 20)
    # One rank has little memory left: all take the ring.
    # By sys.modules: the name bido_ext.ops.plan is the function as well, which Python 3.10 would find.
    plan = sys.modules["bido_ext.ops.plan"]
    little = mock.patch.object(plan, "free_memory", return_value=100)
    with little if rank == len(counts) - 1 else nullcontext():
        counted("little memory")
    return received


def refusals(rank: int, counts: list[int]) -> dict[str, str]:
    """What this rank raises."""
    x, z, y = own_features(rank, counts)
    targets = torch.rand(len(y), 2)
    spoilt = [z[0], z[1] * float("nan") if rank == len(counts) - 1 else z[1]]

    class Product(bx.Kernel):
        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            return x @ x.T

    cases: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
        "median": ({"sigma": "median"}, (x, z, y)),
        "kernel": ({"kernel_y": Product()}, (x, z, targets)),
        "too little": ({"workspace_bytes": 100}, (x, z, y)),
        "not finite": ({}, (x, spoilt, y)),
        # float64 holds the first, as in one process, and not the second.
        "far": ({}, (x, [t * 1e30 for t in z], y)),
        "overflow": ({}, (x, [t.double() * 1e200 for t in z], y)),
        "differ": ({"exchange": "gather" if rank == 0 else "ring"}, (x, z, y)),
    }
    said = {}
    for name, (options, arguments) in cases.items():
        options = {"measure": "hsic", "process_group": dist.group.WORLD, **RING, **options}
        try:
            bx.BiDOLoss(**options)(*arguments)
            said[name] = "accepted"
        except (ValueError, MemoryError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The order of posted messages, products and waiting."""
    log: list[str] = []
    pass_on, gram, weight = GroupHandle.pass_on, ring_grams.gram_block, ring_grams.weight_block

    class Waited:
        def __init__(self, work: Any) -> None:
            self.work = work

        def wait(self) -> None:
            log.append("wait")
            self.work.wait()

    def posted(self: GroupHandle, outgoing: list[Tensor], coming: list[Tensor]) -> list[Any]:
        works = pass_on(self, outgoing, coming)
        log.append("post")
        return [Waited(work) for work in works]

    def multiplied(function: Any) -> Any:
        def call(*arguments: Any) -> Tensor:
            log.append("multiply")
            return function(*arguments)

        return call

    with (
        mock.patch.object(GroupHandle, "pass_on", posted),
        mock.patch.object(ring_grams, "gram_block", multiplied(gram)),
        mock.patch.object(ring_grams, "weight_block", multiplied(weight)),
    ):
        yield log


def events(rank: int, counts: list[int], measure: str) -> list[str]:
    """A step's order of messages and products, repetitions left out."""
    x, z, y = own_features(rank, counts)
    criterion = bx.BiDOLoss(**settings(measure), process_group=dist.group.WORLD, **RING)
    with recorded() as log:
        criterion(x, z, y).backward()
    return [event for i, event in enumerate(log) if i == 0 or log[i - 1] != event]


def peak(how: str) -> int:
    """Bytes that a step of value and gradient takes at its peak, beyond its inputs."""
    torch.manual_seed(dist.get_rank())
    x = torch.rand(WIDE_ROWS, WIDE)
    z = torch.rand(WIDE_ROWS, WIDE, requires_grad=True)
    y = torch.arange(WIDE_ROWS) % 3
    criterion = bx.BiDOLoss("hsic", process_group=dist.group.WORLD, exchange=how)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        torch.autograd.grad(criterion(x, [z], y), z)
    held = most = 0
    found = [e for e in recording.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(found, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
