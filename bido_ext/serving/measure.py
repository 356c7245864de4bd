# SPDX-License-Identifier: Apache-2.0
"""How long calls take: the one clock of the chooser, of ``bido bench`` and of the benchmarks.

Every call runs once before anything counts. Then come rounds in which each takes its turn, so that a slow spell
of a shared machine, a clock that drops and a warm cache fall on all alike. A CUDA device is timed by its own
events, anything else by the clock of the host.

- :func:`times`: the chooser's, within a budget; the best round counts, and what does not run is left out.
- :func:`interleaved`: quantiles over rounds in an order shuffled anew in each, short calls repeated.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Call = Callable[[], object]
Step = Call
Name = TypeVar("Name", bound=Hashable)

#: Seconds for all candidates of a choice together, the first run of each apart.
BUDGET = 0.05
MOST_ROUNDS = 7
MIN_ROUNDS = 7
#: Seconds a sample should last at least; a timer tick and a scheduler hiccup are then small.
MIN_SAMPLE_S = 2e-3
MAX_REPEATS = 1000


def sample(call: Call, device: str | torch.device, repeats: int = 1) -> float:
    """Seconds of one of so many calls in a row."""
    if not is_cuda(device):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats
    with torch.cuda.device(device):  # events belong to the device that is current at their record
        begun, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begun.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
    return begun.elapsed_time(end) / 1e3 / repeats


def times(
    steps: Mapping[str, Step], device: torch.device, budget: float = BUDGET
) -> dict[str, float | str]:
    """Milliseconds of each step, or in words why it does not run.

    Rounds until the budget is spent, at least one; the best of each step counts.
    """
    found: dict[str, float | str] = {}
    best = dict.fromkeys(steps, float("inf"))
    end = float("inf")
    for counts in range(MOST_ROUNDS + 1):
        for name in [name for name in steps if name not in found]:
            try:
                taken = 1e3 * sample(steps[name], device)
            except Exception as error:  # out of memory, or of something else: another one serves
                said = str(error).splitlines()
                found[name] = f"{type(error).__name__}: {said[0] if said else ''}"
                continue
            if counts:
                best[name] = min(best[name], taken)
        if counts == 0:
            end = time.perf_counter() + budget
        elif time.perf_counter() >= end:
            break
    return best | found


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over the rounds.

    Attributes:
        median, q20, q80: Quantiles in seconds.
        rounds: Number of samples.
        repeats: Calls per sample.
        samples: Seconds by round.
    """

    median: float
    q20: float
    q80: float
    rounds: int
    repeats: int
    samples: tuple[float, ...] = ()


def interleaved(
    calls: Mapping[Name, Call],
    rounds: int = MIN_ROUNDS,
    *,
    device: str | torch.device = "cpu",
    min_sample_s: float | None = None,
    minimum_rounds: int = MIN_ROUNDS,
    seed: int = 0,
) -> dict[Name, Timing]:
    """Times every call; what a call returns is dropped.

    Args:
        calls: By name.
        rounds: Samples per call.
        device: Where the calls compute.
        min_sample_s: Least length of a sample in seconds; default MIN_SAMPLE_S.
        minimum_rounds: Smaller only for smoke runs, whose times mean nothing.
        seed: Of the order within the rounds.

    Raises:
        ValueError: Too few rounds for a median and its quantiles.
    """
    if rounds < minimum_rounds:
        raise ValueError(f"rounds must be at least {minimum_rounds}, got {rounds}.")
    least = MIN_SAMPLE_S if min_sample_s is None else min_sample_s
    repeats = {}
    for name, call in calls.items():
        sample(call, device)
        once = min(sample(call, device) for _ in range(2))
        repeats[name] = min(MAX_REPEATS, max(1, math.ceil(least / max(once, 1e-9))))
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(sample(calls[name], device, repeats[name]))
    return {
        name: Timing(
            quantile(taken, 0.5),
            quantile(taken, 0.2),
            quantile(taken, 0.8),
            rounds,
            repeats[name],
            tuple(taken),
        )
        for name, taken in seconds.items()
    }


def paired_ratio(own: Timing, other: Timing) -> tuple[float, float, float]:
    """Median of the ratios of two calls within the same rounds, and its 95 % interval by order statistics.

    A slow spell of the machine falls on both calls of a round: it cancels here, not in a ratio of medians.
    """
    ratios = sorted(a / b for a, b in zip(own.samples, other.samples, strict=True))
    n = len(ratios)
    reach = math.ceil(1.96 * math.sqrt(n) / 2)
    low, high = max(0, n // 2 - reach), min(n - 1, (n - 1) // 2 + reach)
    return quantile(ratios, 0.5), ratios[low], ratios[high]


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def clock_of(device: str | torch.device) -> str:
    """What times a device, as records name it."""
    return "CUDA events" if is_cuda(device) else "host clock"


def is_cuda(device: str | torch.device) -> bool:
    """Whether a device is a CUDA device."""
    return torch.device(device).type == "cuda"
