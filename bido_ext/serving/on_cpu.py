# SPDX-License-Identifier: Apache-2.0
"""The choice on the CPU: the kernel of bido_cpu where it takes the arguments, else the default.

What float32 does not resolve is computed once more in float64 (bido_ext._float64).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bido_ext._float64 import resolved
from bido_ext.serving import choose, libraries
from bido_ext.serving.row import (
    CONTRACTS,
    Arguments,
    Function,
    Implementation,
    default_of,
    named,
    row_of,
)

CPU = torch.device("cpu")
#: Whether the kernels of compositions may serve; tests of the compositions say no.
KERNELS_OF_COMPOSITIONS = True
#: Where the calls of a step are collected to be timed (bido_ext.ops.tune); None: they are not.
collected: list[tuple[str, Arguments]] | None = None


def call(name: str, *args: Any) -> Any:
    """Calls the function that serves; what float32 does not resolve, in float64."""
    if collected is not None:
        collected.append((name, named(name, args)))
    return resolved(CONTRACTS[name].in_float64, name, _function_of, args)


def _function_of(name: str, args: Sequence[Any], failed: bool) -> Function:
    return function_of(name, args, failed)


def function_of(name: str, args: Sequence[Any], failed: bool) -> Function:
    """The C++ kernel if there is one that takes the arguments, else the composition or the reference.

    Args:
        failed: float32 has failed: these are float64 features, which no Triton kernel takes.
    """
    forced = libraries.FORCED
    if forced is not None and forced != "native":
        if forced == "triton" and not failed and row_of(name).get("triton"):
            return choose.choose(name, named(name, args), CPU, forced)
        return default_of(name)
    native, kernel, composed = _known_of(name)
    if native is None:
        return default_of(name)
    if composed and not (KERNELS_OF_COMPOSITIONS and _takes(kernel, name, args)):
        return default_of(name)
    return native


@functools.cache
def _known_of(name: str) -> tuple[Function | None, Implementation | None, bool]:
    """The function of bido_cpu, what its row says of it, and whether the default is a composition."""
    row = row_of(name)
    return getattr(torch.ops.bido_cpu, name, None), row.get("cpu"), bool(row.composition)


def takes(name: str, args: Sequence[Any]) -> bool:
    """Whether the kernel of bido_cpu takes the arguments."""
    return _takes(row_of(name).get("cpu"), name, args)


def _takes(kernel: Implementation | None, name: str, args: Sequence[Any]) -> bool:
    return kernel is not None and kernel.refusal(named(name, args)) is None
