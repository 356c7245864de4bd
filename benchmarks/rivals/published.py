# SPDX-License-Identifier: Apache-2.0
"""The published BiDO algorithm (Peng et al. 2022) in plain PyTorch, written from its formulas.

What makes it slow is kept on purpose: every pair of every layer builds both of its Gram matrices
anew; labels are one-hot with a product of their own; centering is a product with H = I - 11'/n; nHSIC
centers one side and inverts a matrix that is not symmetric; squared distances are made positive by
abs and K (not K - 1) is kept, in the dtype of the features. On a GPU the n x n algebra is done on
the host, as published.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.problem import Problem

MEASURES = frozenset({"hsic", "nhsic", "coco"})


def loss(measure: str, problem: Problem) -> Tensor:
    """sum_j lambda_x d(X, Z_j) - lambda_y d(Z_j, Y); a 0-d tensor on the host."""
    total = torch.zeros((), dtype=problem.x.dtype)
    for z in problem.layers:
        total = total + problem.lambda_x * _pair(measure, problem, problem.x, z)
        if problem.labels is not None:
            total = total - problem.lambda_y * _pair(measure, problem, z, None)
    return total


def _pair(measure: str, problem: Problem, a: Tensor, b: Tensor | None) -> Tensor:
    """d(a, b), or d(a, labels) for b = None; both Gram matrices are built here, each time."""
    K = gaussian(a, problem.sigma)
    L = _label_gram(problem, a.dtype) if b is None else gaussian(b, problem.sigma)
    if measure == "nhsic":
        return (_one_sided_factor(K, problem.eps) * _one_sided_factor(L, problem.eps).T).sum()
    n = K.shape[0]
    H = _centering_matrix(K)
    if measure == "hsic":
        return ((K @ H) * (L @ H).T).sum() / (n - 1) ** 2  # tr(K H L H)
    if measure == "coco":
        return torch.linalg.matrix_norm(center(K) @ center(L), "fro").sqrt() / n
    raise ValueError(f"the published algorithm has no {measure!r}.")


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """exp(-|x_i - x_j|^2 / (2 sigma^2 d)), (n, n), on the host."""
    squares = (x * x).sum(1, keepdim=True)
    distances = (squares - 2 * (x @ x.T) + squares.T).abs()
    return torch.exp(-distances / (2 * sigma**2 * x.shape[1])).cpu()


def center(K: Tensor) -> Tensor:
    """H K H by two products."""
    H = _centering_matrix(K)
    return H @ K @ H


def gram(problem: Problem) -> Tensor:
    """The Gram matrix of the one layer."""
    return gaussian(problem.layers[0], problem.sigma)


def double_center(problem: Problem) -> Tensor:
    """H K H of the one matrix."""
    return center(problem.layers[0])


def _label_gram(problem: Problem, dtype: torch.dtype) -> Tensor:
    assert problem.labels is not None
    assert problem.num_classes is not None
    codes = one_hot(problem.labels.long(), problem.num_classes).to(dtype)
    return (codes @ codes.T).cpu()


def _one_sided_factor(K: Tensor, eps: float) -> Tensor:
    """K H (K H + eps n I)^-1."""
    n = K.shape[0]
    centered = K @ _centering_matrix(K)
    ridge = eps * n * torch.eye(n, dtype=K.dtype, device=K.device)
    return centered @ torch.linalg.inv(centered + ridge)


def _centering_matrix(K: Tensor) -> Tensor:
    n = K.shape[0]
    return torch.eye(n, dtype=K.dtype, device=K.device) - 1 / n
