# SPDX-License-Identifier: Apache-2.0
"""bido_ext itself, called as a user calls it."""

from __future__ import annotations

import torch
from torch import Tensor

import bido_ext as bx
from benchmarks.problem import Problem
from bido_ext.ops.gram_stack import gram_stack as stack_of_group
from bido_ext.ops.group import make_group


def pair(measure: str, problem: Problem) -> Tensor:
    """d(X, Z) by the public function of that name; coco with the Frobenius norm."""
    kernel = bx.Gaussian(problem.sigma)
    arguments = (problem.x, problem.layers[0], kernel, kernel)
    if measure == "nhsic":
        return bx.nhsic(*arguments, eps=problem.eps)
    if measure == "coco":
        return bx.coco(*arguments, norm="fro")
    return bx.hsic(*arguments) if measure == "hsic" else bx.cka(*arguments)


#: Samples from which on streaming is a mode of its own.
STREAM_FROM = 1024
#: Bytes beyond inputs and gradients that the streaming mode may take.
STREAM_BYTES = 192 << 20


def streaming(measure: str, problem: Problem) -> Tensor:
    """hsic or cka(X, Z) made to stream by a bound that the dense regime exceeds."""
    x, z = problem.x, problem.layers[0]
    if problem.n < STREAM_FROM:  # tiles do not pay
        return pair(measure, problem)
    dims, unbounded = (x.shape[1], z.shape[1]), 1 << 61
    dense = bx.plan(problem.n, dims, z.dtype, measure, unbounded, x.device).workspace_bytes
    kernel, bound = bx.Gaussian(problem.sigma), min(STREAM_BYTES, dense - 1)
    op = bx.hsic if measure == "hsic" else bx.cka
    return op(x, z, kernel, kernel, workspace_bytes=bound)


def step(measure: str, problem: Problem) -> Tensor:
    """The full BiDO term by BiDOLoss; coco with the Frobenius norm."""
    criterion = bx.BiDOLoss(
        measure,
        problem.lambda_x,
        problem.lambda_y,
        problem.sigma,
        eps=problem.eps,
        coco_norm="fro",
    )
    if problem.labels is None:
        raise ValueError("a BiDO step needs labels.")
    return criterion(problem.x, list(problem.layers), problem.labels)


def gram(problem: Problem) -> Tensor:
    """The Gaussian Gram matrix of the one layer."""
    return bx.gaussian_gram(problem.layers[0], problem.sigma)


def gram_stack(problem: Problem) -> Tensor:
    """K - 1 of every layer, (m, n, n), as the measures call it: no user does."""
    kernel = bx.Gaussian(problem.sigma)
    return stack_of_group(make_group(problem.layers, [kernel] * len(problem.layers)))


def center(problem: Problem) -> Tensor:
    """H K H."""
    return bx.double_center(problem.layers[0])


def where(device: str) -> dict[str, str]:
    """op -> implementation that serves it on a device, as bido_ext.backends() states it."""
    kind = torch.device(device).type
    return {row.op: row.implementation for row in bx.backends() if row.device == kind}
