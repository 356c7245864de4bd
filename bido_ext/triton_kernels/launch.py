# SPDX-License-Identifier: Apache-2.0
"""Launching: block shapes and, for the kernels that do the arithmetic, a choice by timing on the device."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from bido_ext import _disk_cache

#: Kernels run in Triton's interpreter, on the CPU (tests without a GPU).
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
#: A multiprocessor count to plan with where there is no device.
ASSUMED_MULTIPROCESSORS = 132


@dataclass(frozen=True)
class Config:
    """Block shape and launch options of a product kernel.

    Attributes:
        m, n, k: Rows and columns of an output block; depth of a step.
        warps, stages: As Triton's num_warps and num_stages.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """What Triton's launcher takes."""
        return {"num_warps": self.warps, "num_stages": self.stages}


#: In the interpreter a step costs the same whatever its size.
INTERPRETER_CONFIG = Config(16, 16, 32, 1, 1)

_chosen: dict[Hashable, Config] = {}


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def multiprocessors(x: Tensor) -> int:
    """Of the device of x."""
    if not x.is_cuda:
        return ASSUMED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def tuned(
    name: str,
    candidates: Sequence[Config],
    run: Callable[[Config], None],
    key: tuple[Hashable, ...],
    x: Tensor,
) -> Config:
    """The fastest candidate for ``key``, timed once per device and kept on disk.

    ``run`` must be repeatable. Inside a CUDA graph capture nothing can be timed: the first candidate, which
    is the safe one, is taken unless an earlier call has chosen. BIDO_EXT_AUTOTUNE=0 always takes it.
    """
    if INTERPRETED:
        return INTERPRETER_CONFIG
    if len(candidates) == 1 or not x.is_cuda or os.environ.get("BIDO_EXT_AUTOTUNE") == "0":
        return candidates[0]
    device = torch.cuda.get_device_properties(x.device)
    full_key = (name, *key, device.name)
    if full_key in _chosen:
        return _chosen[full_key]
    stored = f"{'/'.join(map(str, full_key))}/triton {triton.__version__}/torch {torch.__version__}"
    known = _disk_cache.read("triton_configs").get(stored)
    if isinstance(known, int) and 0 <= known < len(candidates):
        _chosen[full_key] = candidates[known]
        return candidates[known]
    if torch.cuda.is_current_stream_capturing():
        return candidates[0]
    times = [_milliseconds(run, config) for config in candidates]
    best = min(range(len(candidates)), key=times.__getitem__)
    _chosen[full_key] = candidates[best]
    _disk_cache.update("triton_configs", stored, best)
    return candidates[best]


def _milliseconds(run: Callable[[Config], None], config: Config) -> float:
    """Best of a few; infinite where the configuration does not fit the device."""
    try:
        run(config)
        best = float("inf")
        for _ in range(3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(config)
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end))
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    return best


def size_class(size: int) -> int:
    """The power of two at or above ``size``: shapes of one class share a configuration."""
    return triton.next_power_of_2(size)
