# SPDX-License-Identifier: Apache-2.0
"""Times of several calls in one process: warm-up, then rounds in which every call takes its turn.

The order is shuffled anew in each round, so that a slow spell of a shared machine, a clock that
drops and a warm cache fall on all alike. Short calls are repeated within a sample.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

Call = Callable[[], object]

MIN_ROUNDS = 7
#: Seconds a sample should last at least; a timer tick and a scheduler hiccup are then small.
MIN_SAMPLE_S = 2e-3
MAX_REPEATS = 1000


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


def paired_ratio(own: Timing, other: Timing) -> tuple[float, float, float]:
    """Median of the ratios of two calls within the same rounds, and its 95 % interval by order statistics.

    A slow spell of the machine falls on both calls of a round: it cancels here, not in a ratio of medians.
    """
    ratios = sorted(a / b for a, b in zip(own.samples, other.samples, strict=True))
    n = len(ratios)
    reach = math.ceil(1.96 * math.sqrt(n) / 2)
    low, high = max(0, n // 2 - reach), min(n - 1, (n - 1) // 2 + reach)
    return quantile(ratios, 0.5), ratios[low], ratios[high]


def interleaved(
    calls: Mapping[str, Call],
    rounds: int = MIN_ROUNDS,
    *,
    device: str = "cpu",
    min_sample_s: float = MIN_SAMPLE_S,
    minimum_rounds: int = MIN_ROUNDS,
    seed: int = 0,
) -> dict[str, Timing]:
    """Times every call; what a call returns is dropped.

    Args:
        calls: By name.
        rounds: Samples per call.
        device: "cpu", or a CUDA device, timed by its own events.
        min_sample_s: Least length of a sample in seconds.
        minimum_rounds: Smaller only for smoke runs, whose times mean nothing.
        seed: Of the order within the rounds.

    Raises:
        ValueError: Too few rounds for a median and its quantiles.
    """
    if rounds < minimum_rounds:
        raise ValueError(f"rounds must be at least {minimum_rounds}, got {rounds}.")
    sample = partial(_cuda_sample, device) if is_cuda(device) else _host_sample
    repeats = {}
    for name, call in calls.items():
        sample(call, 1)
        once = min(sample(call, 1) for _ in range(2))
        repeats[name] = min(MAX_REPEATS, max(1, math.ceil(min_sample_s / max(once, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(sample(calls[name], repeats[name]))
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


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def clock_of(device: str) -> str:
    """What times a device, as records name it."""
    return "CUDA events" if is_cuda(device) else "host clock"


def is_cuda(device: str) -> bool:
    """Whether a device is a CUDA device."""
    return torch.device(device).type == "cuda"


def _host_sample(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _cuda_sample(device: str, call: Call, repeats: int) -> float:
    with torch.cuda.device(
        device
    ):  # events belong to the device that is current when they are recorded
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats
