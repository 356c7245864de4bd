# SPDX-License-Identifier: Apache-2.0
"""Median times of several calls that take turns, in an order shuffled anew in each round."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

#: Rounds of which the median is taken.
ROUNDS = 7
#: Seconds a sample should last at least: shorter calls are repeated within it.
MIN_SAMPLE_S = 2e-3
MAX_REPEATS = 1000

Name = TypeVar("Name", bound=Hashable)


def medians(
    calls: Mapping[Name, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[Name, float]:
    """Seconds of one call, by name; slow spells and falling clocks hit all alike."""
    repeats = {}
    for name, call in calls.items():
        _sample(call, 1, device)  # warm-up
        once = min(_sample(call, 1, device) for _ in range(2))
        repeats[name] = min(MAX_REPEATS, math.ceil(MIN_SAMPLE_S / max(once, 1e-9)))
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(_sample(calls[name], repeats[name], device))
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _sample(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
