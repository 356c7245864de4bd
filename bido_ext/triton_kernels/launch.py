# SPDX-License-Identifier: Apache-2.0
"""Launching: block shapes and, for the kernels that do the arithmetic, a choice by timing on the device."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from bido_ext import _disk_cache
from bido_ext.serving import measure

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
    out: Tensor,
) -> Config:
    """The fastest candidate for ``key`` whose result is that of the first, timed once per device and kept on
    disk.

    The first candidate is the safe one: it alone is what the self-check of the op has compared with the
    reference. ``run`` must be repeatable, and writes ``out``. Inside a CUDA graph capture nothing can be timed:
    the first candidate is taken unless an earlier call has chosen. BIDO_EXT_AUTOTUNE=0 always takes it.

    Raises:
        RuntimeError: No candidate runs on the device.
    """
    if INTERPRETED:
        return INTERPRETER_CONFIG
    if len(candidates) == 1 or not x.is_cuda or os.environ.get("BIDO_EXT_AUTOTUNE") == "0":
        return candidates[0]
    device = torch.cuda.get_device_properties(x.device)
    full_key = (name, *key, device.name, f"sm_{device.major}{device.minor}")
    if full_key in _chosen:
        return _chosen[full_key]
    # With the candidates themselves: an edited list chooses anew.
    parts = (*full_key, *candidates, f"triton {triton.__version__}", f"torch {torch.__version__}")
    stored = "/".join(map(str, parts))
    known = _disk_cache.read("triton_configs").get(stored)
    if isinstance(known, int) and 0 <= known < len(candidates):
        _chosen[full_key] = candidates[known]
        return candidates[known]
    with on_device(x):
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]
        best = fastest(candidates, run, out, _milliseconds)
    _chosen[full_key] = candidates[best]
    _disk_cache.update("triton_configs", stored, best)
    return candidates[best]


#: A candidate's result may differ from that of the first by so much of its norm: another order of sums.
SAME_RESULT = 1e-4
ROWS_COMPARED = 256


def fastest(
    candidates: Sequence[Config],
    run: Callable[[Config], None],
    out: Tensor,
    milliseconds: Callable[[Callable[[], None]], float],
) -> int:
    """The place of the fastest candidate that runs and writes what the first one that runs has written."""
    times, problems, wanted = [], [], None
    for config in candidates:
        try:
            out.fill_(float("nan"))  # what is not written is seen
            run(config)
            if wanted is None:
                wanted = _some_rows(out)
            elif not _same(_some_rows(out), wanted):
                raise ArithmeticError("its result is not that of the first configuration")
            times.append(milliseconds(functools.partial(run, config)))
        except Exception as error:  # it does not compile, does not fit, or is wrong
            times.append(float("inf"))
            problems.append(f"{config}: {type(error).__name__}: {error}")
    if min(times) == float("inf"):
        raise RuntimeError("No configuration runs on this device. " + " ".join(problems))
    return min(range(len(candidates)), key=times.__getitem__)


def _some_rows(out: Tensor) -> Tensor:
    """A copy of the first and the last rows: of a large matrix a copy may not fit, and all blocks are alike."""
    return torch.cat([out[:ROWS_COMPARED], out[-ROWS_COMPARED:]])


def _same(got: Tensor, wanted: Tensor) -> bool:
    """Up to the order of sums; what is not finite must be so in both."""
    held = wanted.isfinite()
    if not torch.equal(held, got.isfinite()):
        return False
    a, b = (torch.where(held, t, 0).double() for t in (got, wanted))
    allowed = max(SAME_RESULT, 4 * torch.finfo(wanted.dtype).eps)
    return bool(torch.linalg.vector_norm(a - b) <= allowed * torch.linalg.vector_norm(b))


#: A launch takes some microseconds of the host: calls are timed in a row of at least so many milliseconds.
LEAST_MILLISECONDS = 1.0
MOST_CALLS = 32


def _milliseconds(call: Callable[[], None]) -> float:
    """Of one call, the best of a few rows; on the current device and its current stream."""

    device = torch.device("cuda", torch.cuda.current_device())

    def row(calls: int) -> float:
        return 1e3 * measure.sample(call, device, calls)

    call()  # the first is slow
    once = max(row(1), 1e-3)
    calls = min(MOST_CALLS, max(1, round(LEAST_MILLISECONDS / once)))
    return min(row(calls) for _ in range(3))


def size_class(size: int) -> int:
    """The power of two at or above ``size``: shapes of one class share a configuration."""
    return triton.next_power_of_2(size)
