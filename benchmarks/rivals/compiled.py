# SPDX-License-Identifier: Apache-2.0
"""torch.compile of shared_eager, static shapes, one graph: compiled anew for every shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import Problem
from benchmarks.rivals import shared_eager

MEASURES = shared_eager.MEASURES
BACKEND = "inductor"


@lru_cache(maxsize=1)
def _compile(function: Callable[..., Tensor], shapes: object, backend: str) -> Callable[..., Any]:
    # Without the reset a ninth shape would pass dynamo's recompile limit and fail.
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True, backend=backend)


def _shapes(problem: Problem) -> tuple[object, ...]:
    tensors = (problem.x, *problem.layers)
    return tuple((tuple(t.shape), t.dtype, t.device) for t in tensors)


def loss(measure: str, problem: Problem) -> Tensor:
    """As :func:`shared_eager.loss`; the first call of a shape compiles for seconds."""
    compiled = _compile(shared_eager.total, (measure, _shapes(problem)), BACKEND)
    return compiled(
        measure,
        problem.x,
        problem.layers,
        problem.labels,
        problem.lambda_x,
        problem.lambda_y,
        problem.sigma,
        problem.eps,
    )


def gram(problem: Problem) -> Tensor:
    """The Gram matrix of the one layer."""
    compiled = _compile(shared_eager.gaussian, _shapes(problem), BACKEND)
    return compiled(problem.layers[0], problem.sigma)


def gram_stack(problem: Problem) -> Tensor:
    """K - 1 of every layer."""
    compiled = _compile(shared_eager.stack, _shapes(problem), BACKEND)
    return compiled(problem.layers, problem.sigma)


def double_center(problem: Problem) -> Tensor:
    """H K H of the one matrix."""
    return _compile(shared_eager.center, _shapes(problem), BACKEND)(problem.layers[0])
