# SPDX-License-Identifier: Apache-2.0
"""How long a step takes: interleaved rounds within a budget, the best of them counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Step = Callable[[], object]
#: Seconds for all candidates together, the first run of each apart.
BUDGET = 0.05
MOST_ROUNDS = 7


def milliseconds(step: Step, device: torch.device) -> float:
    """Of one run: by events of the device's current stream, elsewhere by the clock."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)
    begun = time.perf_counter()
    step()
    return (time.perf_counter() - begun) * 1e3


def times(
    steps: Mapping[str, Step], device: torch.device, budget: float = BUDGET
) -> dict[str, float | str]:
    """Milliseconds of each step, or in words why it does not run.

    Each runs once before anything counts (compilation, caches). Then all run in turn, so that a busy moment
    meets every one of them, until the budget is spent; at least once each.
    """
    found: dict[str, float | str] = {}
    best = dict.fromkeys(steps, float("inf"))
    end = float("inf")
    for counts in range(MOST_ROUNDS + 1):
        for name in [name for name in steps if name not in found]:
            try:
                taken = milliseconds(steps[name], device)
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
