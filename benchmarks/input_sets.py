# SPDX-License-Identifier: Apache-2.0
"""Several sets of inputs in rotation, so that a GPU's L2 cache does not hold what a call is about to read.

A training step reads features that the layers before it have just written over the cache; a call that is
repeated on the same small inputs would find them there. So many sets take turns that together they are twice
as large as the L2 cache; whoever is timed takes the next one, so that nobody warms the cache for the next.
On a CPU one set serves, as in all results recorded there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from benchmarks.problem import Problem

T = TypeVar("T")

#: The sets together are this many times the cache.
TIMES_CACHE = 2
#: No more sets than this, however small they are.
MOST = 256


class Rotation(Generic[T]):
    """Sets of inputs; each call of anyone takes the next."""

    def __init__(self, sets: Iterable[T]) -> None:
        self.sets = tuple(sets)
        self._turns = itertools.cycle(self.sets)

    def call(self, function: Callable[[T], object]) -> Callable[[], object]:
        """``function`` of the set whose turn it is."""
        return lambda: function(next(self._turns))


def cache_bytes(device: str) -> int:
    """Size of the L2 cache of a CUDA device; 0 on a CPU, where one set serves."""
    if torch.device(device).type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).L2_cache_size


def how_many(bytes_of_one: int, device: str, most: int = MOST) -> int:
    """Sets needed of inputs of so many bytes."""
    wanted = math.ceil(TIMES_CACHE * cache_bytes(device) / max(1, bytes_of_one))
    return min(most, max(1, wanted))


def told(count: int, bytes_of_one: int, device: str) -> dict[str, Any]:
    """What a record says of its sets: ``beyond_l2`` is null where there is no such cache to beat."""
    cache = cache_bytes(device)
    return {
        "count": count,
        "bytes": count * bytes_of_one,
        "l2_bytes": cache or None,
        "beyond_l2": count * bytes_of_one >= TIMES_CACHE * cache if cache else None,
    }


def bytes_of(problem: Problem) -> int:
    """Of the features, and of the gradient that flows in."""
    tensors = {id(t): t for t in (problem.x, *problem.layers, problem.cotangent) if t is not None}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def rotation_of(problem: Problem, device: str) -> Rotation[Problem]:
    """A problem and as many copies of it as the device's cache asks for."""
    count = how_many(bytes_of(problem), device)
    return Rotation([problem, *(copy_of(problem) for _ in range(count - 1))])


def copy_of(problem: Problem) -> Problem:
    """The same numbers elsewhere in memory; the layers ask for gradients."""

    def copy(v: Tensor) -> Tensor:
        return v.detach().clone()

    return replace(
        problem,
        x=copy(problem.x),
        layers=tuple(copy(z).requires_grad_() for z in problem.layers),
        labels=None if problem.labels is None else copy(problem.labels),
        cotangent=None if problem.cotangent is None else copy(problem.cotangent),
    )
