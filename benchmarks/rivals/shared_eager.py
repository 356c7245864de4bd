# SPDX-License-Identifier: Apache-2.0
"""Clean eager PyTorch with plain autograd: K_X and L_Y once per step, K_Z once per layer.

What a careful user writes in an afternoon; torch.compile gets the same code. HSIC centers only the
side that is constant in the step, which is exact in real arithmetic and costs least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.problem import Problem

MEASURES = frozenset({"hsic", "nhsic", "coco", "cka"})


def loss(measure: str, problem: Problem) -> Tensor:
    """sum_j lambda_x d(X, Z_j) - lambda_y d(Z_j, Y); a 0-d tensor."""
    return total(
        measure,
        problem.x,
        problem.layers,
        problem.labels,
        problem.lambda_x,
        problem.lambda_y,
        problem.sigma,
        problem.eps,
    )


def total(
    measure: str,
    x: Tensor,
    layers: tuple[Tensor, ...],
    labels: Tensor | None,
    lambda_x: float,
    lambda_y: float,
    sigma: float,
    eps: float,
) -> Tensor:
    """The same on plain arguments, as torch.compile likes them."""
    X = prepare(measure, gaussian(x, sigma), eps)
    Y = None
    if labels is not None:
        Y = prepare(measure, (labels[:, None] == labels[None, :]).to(x.dtype), eps)
    value = x.new_zeros(())
    for z in layers:
        K = gaussian(z, sigma)
        Z = K if measure == "hsic" else prepare(measure, K, eps)
        value = value + lambda_x * pair(measure, X, Z)
        if Y is not None:
            value = value - lambda_y * pair(measure, Y, Z)
    return value


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """exp(-|x_i - x_j|^2 / (2 sigma^2 d)), (n, n)."""
    squares = x.square().sum(1)
    distances = (squares[:, None] + squares[None, :] - 2 * (x @ x.T)).clamp_min(0)
    return torch.exp(-distances / (2 * sigma**2 * x.shape[1]))


def center(K: Tensor) -> Tensor:
    """H K H by means."""
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def prepare(measure: str, K: Tensor, eps: float) -> Tensor:
    """What a variable contributes: its centered matrix, for nhsic S = Kc (Kc + eps n I)^-1."""
    Kc = center(K)
    if measure == "nhsic":
        n = K.shape[0]
        return torch.linalg.solve(Kc + eps * n * torch.eye(n, dtype=K.dtype, device=K.device), Kc)
    if measure == "cka":
        return Kc / torch.linalg.matrix_norm(Kc)
    return Kc


def pair(measure: str, a: Tensor, b: Tensor) -> Tensor:
    """d of two prepared variables."""
    n = a.shape[0]
    if measure == "hsic":
        return (a * b).sum() / (n - 1) ** 2
    if measure == "coco":
        return torch.linalg.matrix_norm(a @ b).sqrt() / n
    return (a * b).sum()


def gram(problem: Problem) -> Tensor:
    """The Gram matrix of the one layer."""
    return gaussian(problem.layers[0], problem.sigma)


def gram_stack(problem: Problem) -> Tensor:
    """K - 1 of every layer."""
    return stack(problem.layers, problem.sigma)


def stack(layers: tuple[Tensor, ...], sigma: float) -> Tensor:
    """The same on plain arguments, (m, n, n)."""
    return torch.stack([gaussian(z, sigma) - 1 for z in layers])


def double_center(problem: Problem) -> Tensor:
    """H K H of the one matrix."""
    return center(problem.layers[0])
