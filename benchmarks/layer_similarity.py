# SPDX-License-Identifier: Apache-2.0
"""CKA of all layers of two ResNet-18 on 2048 CIFAR-sized images: ``python -m benchmarks.layer_similarity``.

17 x 17 convolutions (those on the path), unbiased HSIC averaged over mini-batches, linear kernel. Rivals: the
package torch_cka where it can be imported, its published algorithm written anew (every pair makes its Gram
matrix and its self-term again), and clean eager PyTorch that makes each Gram matrix once. All run without
gradients. The floor are the forward passes of both models, which nobody can do without: "without forward" is
the ratio of what is left. ``--stem cifar`` takes the stem of ResNet-18 for CIFAR, whose layers are 16 times
as wide; ``--sums`` compares ways to make the sums of one batch from its features. Needs torchvision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.layer_similarity_rivals import Models, gram_once, pair_by_pair, torch_cka_package
from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from bido_ext import LayerSimilarity, Linear, reference
from bido_ext.nn.similarity_sums import CenteredGrams, sums_of_batch
from bido_ext.ops.gram_stack import gram_stack
from bido_ext.ops.group import Group, Pairs, make_group
from bido_ext.ops.hsic import hsic_of_pairs
from bido_ext.serving.measure import MIN_ROUNDS, Timing, interleaved, paired_ratio, quantile

OWN, FORWARD = "bido_ext", "both forward passes"
RIVALS = ("torch_cka", "pair by pair", "each Gram matrix once")
#: CKA may be so far from the float64 truth.
TOLERANCE = 1e-5
GATE_BATCHES = 2


def own(models: Models, batches: Sequence[Tensor]) -> Tensor:
    """bido_ext."""
    similarity = LayerSimilarity(models.pair[0], models.pair[1], models.names)
    for x in batches:
        similarity.update(x)
    return similarity.compute().matrix


def truth(models: Models, batches: Sequence[Tensor]) -> Tensor:
    """Float64 Gram matrices of the float32 features, and the textbook."""
    m = len(models.names)
    products, selves = torch.zeros(m, m).double(), torch.zeros(2, m).double()
    for x in batches:
        grams = [[(w := z.cpu().double()) @ w.T for z in layers] for layers in models.features(x)]
        for side, stack in enumerate(grams):
            selves[side] += torch.stack([reference.hsic(K, K, True) for K in stack])
        for i, K in enumerate(grams[0]):
            products[i] += torch.stack([reference.hsic(K, L, True) for L in grams[1]])
    return products / (selves[0].sqrt()[:, None] * selves[1].sqrt())


@torch.no_grad()
def compare(
    models: Models, stem: str, batch_size: int, threads: int, rounds: int,
    rivals: Sequence[str] = RIVALS, cpu_time: bool = False,
) -> Record:  # fmt: skip
    """Checks and times bido_ext and the rivals on all batches.

    Raises:
        ValueError: bido_ext misses the float64 truth by more than TOLERANCE.
    """
    package = torch_cka_package(models)
    ready = dict(zip(RIVALS, (package, pair_by_pair, gram_once), strict=True))
    contenders = {OWN: own, **{name: run for name in rivals if (run := ready[name]) is not None}}
    few = models.batches[:GATE_BATCHES]
    wanted = truth(models, few)
    errors = {
        name: float((run(models, few).cpu().double() - wanted).abs().max())
        for name, run in contenders.items()
    }
    if not errors[OWN] <= TOLERANCE:
        raise ValueError(f"bido_ext misses the float64 truth by {errors[OWN]:.1e}")
    calls: dict[str, Callable[[], object]] = {FORWARD: lambda: models.forward(models.batches)}
    for name, run in contenders.items():
        calls[name] = lambda run=run: run(models, models.batches)  # type: ignore[misc]
    device = str(models.images.device)
    if cpu_time:
        times = cpu_seconds(calls, rounds)
    else:
        times = interleaved(calls, rounds, device=device, minimum_rounds=1)
    m = len(models.names)
    name = f"layer_similarity_resnet18_{stem}_batch{batch_size}"
    spec = {"name": name, "n": len(models.images), "dims": [m, m], "batch_size": batch_size}
    found = record(spec, FORWARD, times, errors, threads, rounds, device)
    return {**found, "clock": "CPU time of the process" if cpu_time else "wall"}


def cpu_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """CPU time of the process, for one thread on a machine that others use: waiting does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {
        name: Timing(quantile(t, 0.5), quantile(t, 0.2), quantile(t, 0.8), rounds, 1, tuple(t))
        for name, t in taken.items()
    }


@torch.no_grad()
def compare_sums(models: Models, stem: str, batch_size: int, threads: int, rounds: int) -> Record:
    """Times ways from the features of one batch to the HSIC of all pairs."""
    layers = models.features(models.batches[0])
    groups = [make_group(z, [Linear()] * len(z)) for z in layers]
    both = make_group([*layers[0], *layers[1]], [Linear()] * sum(map(len, layers)))
    m, every = len(layers[0]), range(2 * len(layers[0]))
    pairs = Pairs(
        [i for i in range(m) for _ in range(m)] + list(every),
        [m + j for _ in range(m) for j in range(m)] + list(every),
    )

    def centered(group: Group) -> CenteredGrams:
        return CenteredGrams(group, True)

    calls: dict[str, Callable[[], object]] = {
        "Gram matrices alone": lambda: gram_stack(both),
        OWN: lambda: sums_of_batch(centered(groups[0]), centered(groups[1])),
        f"hsic op, {len(pairs.first)} pairs": lambda: hsic_of_pairs(both, pairs, True),
        "hsic op, 1 pair": lambda: hsic_of_pairs(both, Pairs([0], [m]), True),
    }
    device = str(models.images.device)
    times = interleaved(calls, max(rounds, MIN_ROUNDS), device=device)
    values = hsic_of_pairs(both, pairs, True)
    selves = values[m * m :].sqrt()
    cka = values[: m * m].view(m, m) / (selves[:m, None] * selves[m:])
    found = sums_of_batch(centered(groups[0]), centered(groups[1])).cka()
    errors = {OWN: float((found - cka).abs().max())}  # from the hsic op, which sums in float64
    name = f"layer_similarity_sums_{stem}"
    spec = {"name": name, "n": batch_size, "dims": [m, m], "batch_size": batch_size}
    return record(spec, "Gram matrices alone", times, errors, threads, rounds, device)


def record(
    spec: dict[str, Any], floor: str, times: dict[str, Timing], errors: dict[str, float],
    threads: int, rounds: int, device: str,
) -> Record:  # fmt: skip
    """The record of one run; ratios are to bido_ext, in the same round."""
    rows = []
    for name, taken in times.items():
        if name == floor:
            continue
        row: dict[str, Any] = {"name": name, "refusal": None, "value_error": errors.get(name)}
        row |= {
            "median_ms": 1e3 * taken.median,
            "q20_ms": 1e3 * taken.q20,
            "q80_ms": 1e3 * taken.q80,
        }
        row["times_floor"] = taken.median / times[floor].median
        ratio, low, high = paired_ratio(taken, times[OWN])
        row |= {"times_own": ratio, "times_own_95": [low, high]}
        rest, base = (t.median - times[floor].median for t in (taken, times[OWN]))
        row["times_own_without_floor"] = rest / base if base > 0 else None
        rows.append(row)
    return {
        "spec": spec,
        "dtype": "float32",
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": floor, "ms": 1e3 * times[floor].median},
        "rows": rows,
        "machine": machine_line(device),
    }


def text(found: Record) -> str:
    """The record as lines."""
    spec, floor = found["spec"], found["floor"]
    lines = [
        f"{spec['name']}, n = {spec['n']}, batches of {spec['batch_size']}; "
        f"{floor['what']} {floor['ms']:.0f} ms"
    ]
    for row in found["rows"]:
        error = row["value_error"]
        rest = row["times_own_without_floor"]
        lines.append(
            f"  {row['name']:<24} {row['median_ms']:9.1f} ms  {row['times_floor']:6.2f} x floor  "
            f"{row['times_own']:6.2f} x bido_ext"
            + ("" if rest is None else f", {rest:.1f} x without the floor")
            + ("" if error is None else f"; error {error:.0e}")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layer_similarity", description=__doc__
    )
    parser.add_argument("--stem", choices=["imagenet", "cifar"], default="imagenet")
    parser.add_argument("--n", type=int, default=2048, help="images (default 2048)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--sums", action="store_true", help="the sums of one batch alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine, one thread")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=RIVALS)
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    models = Models(options.stem, options.n, options.batch_size, options.device)
    settings = models, options.stem, options.batch_size, options.threads, options.rounds
    found = (
        compare_sums(*settings)
        if options.sums
        else compare(*settings, options.rivals, options.cpu_time)
    )
    print(text(found), flush=True)
    save(
        options.json or default_path("layer_similarity", options.device),
        "layer_similarity",
        [found],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
