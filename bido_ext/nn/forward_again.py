# SPDX-License-Identifier: Apache-2.0
"""A second forward that repeats the first: random generators, buffers, and a look at whether it did."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def generator_states(devices: Iterable[torch.device]) -> list[Callable[[], object]]:
    """Functions that bring the global generators back to where they are now.

    Those of PyTorch on the CPU and on the devices, of Python, and of numpy if somebody uses it.
    """
    restores: list[Callable[[], object]] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(random.setstate, random.getstate()),
    ]
    if numpy := sys.modules.get("numpy"):
        restores.append(partial(numpy.random.set_state, numpy.random.get_state()))
    for device in devices:
        module: Any = torch.get_device_module(device)
        of_device = () if device.type == "mps" else (device,)
        restores.append(partial(module.set_rng_state, module.get_rng_state(*of_device), *of_device))
    return restores


def devices_of(model: nn.Module, x: Tensor) -> list[torch.device]:
    """Where a forward may draw numbers, beside the CPU."""
    devices = {x.device, *(p.device for p in model.parameters())}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Puts the model's buffers back: what the first forward updates, the second updates again."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            setattr(module, name, buffer)  # a forward may have put another tensor there
            buffer.copy_(value)


class Fingerprint(NamedTuple):
    """What a forward gave, as little of it as tells whether another one gave the same.

    Attributes:
        lengths: By what it is of, the Euclidean length of each sample's part (n,).
        tolerance: Relative difference that other kernels with and without graph may make.
    """

    lengths: dict[str, Tensor]
    tolerance: float


def fingerprint(leaves: Sequence[Any], features: Mapping[str, Tensor]) -> Fingerprint:
    """Of the leaves of a model's output and of tapped features."""
    named = {f"output {i}": t for i, t in enumerate(leaves) if isinstance(t, Tensor)}
    named |= {f"the features of layer '{name}'": z for name, z in features.items()}
    floats = {what: t.detach() for what, t in named.items() if t.is_floating_point() and t.dim()}
    coarsest = 0.0
    for t in floats.values():
        narrow = torch.is_autocast_enabled(t.device.type)
        dtypes = [t.dtype, *([torch.get_autocast_dtype(t.device.type)] if narrow else [])]
        coarsest = max(coarsest, *(torch.finfo(dtype).eps for dtype in dtypes))
    lengths = {
        what: torch.linalg.vector_norm(t[:, None].flatten(1), dim=1, dtype=_wide(t.dtype))
        for what, t in floats.items()
    }
    return Fingerprint(lengths, coarsest**0.5)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def check_repeated(first: Fingerprint, again: Fingerprint) -> None:
    """Whether the second forward gave what the first did, up to round-off. Reads the device.

    Raises:
        RuntimeError: It did not.
    """
    what = next(
        (what for what, a in first.lengths.items() if _differ(a, again, what)), None
    ) or next((what for what in again.lengths if what not in first.lengths), None)
    if what is not None:
        raise RuntimeError(
            f"MicroBatchedBiDO: in the second forward of a micro-batch, {what} differed from the first: the "
            "model draws from a generator of its own, or changes with each call. The global generators of "
            "PyTorch, Python and numpy are restored: draw from those, or switch the randomness off. The "
            "gradients of this step are not complete: zero them."
        )


def _differ(a: Tensor, again: Fingerprint, what: str) -> bool:
    b = again.lengths.get(what)
    if b is None or a.shape != b.shape:
        return True
    return a.numel() > 0 and bool((a - b).abs().max() > again.tolerance * a.abs().max())
