# SPDX-License-Identifier: Apache-2.0
"""The float64 truth of every case, from the textbook formulas of bido_ext.reference."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.problem import Problem
from bido_ext import reference


def measure_truth(measure: str, problem: Problem) -> Tensor:
    """sum_j lambda_x d(X, Z_j) - lambda_y d(Z_j, Y) of a float64 problem; a 0-d tensor."""
    K_x = _gram(problem, problem.x)
    labels = problem.labels
    L_y = None if labels is None else (labels[:, None] == labels[None, :]).to(K_x.dtype)
    total = torch.zeros((), dtype=K_x.dtype, device=K_x.device)
    for z in problem.layers:
        K_z = _gram(problem, z)
        total = total + problem.lambda_x * _dependence(measure, K_x, K_z, problem.eps)
        if L_y is not None:
            total = total - problem.lambda_y * _dependence(measure, K_z, L_y, problem.eps)
    return total


def _dependence(measure: str, K: Tensor, L: Tensor, eps: float) -> Tensor:
    if measure == "nhsic":
        return reference.nhsic(K, L, eps)
    if measure == "coco":
        return reference.coco(K, L, "fro")
    return reference.hsic(K, L) if measure == "hsic" else reference.cka(K, L)


def gram_truth(problem: Problem) -> Tensor:
    """K of the one layer, (n, n)."""
    (x,) = problem.layers
    return reference.gaussian_gram(x, problem.gamma(x))


def stack_truth(problem: Problem) -> Tensor:
    """K - 1 of every layer, (m, n, n)."""
    return torch.stack([_gram(problem, z) for z in problem.layers])


def center_truth(problem: Problem) -> Tensor:
    """H K H, (n, n)."""
    return reference.double_center(problem.layers[0])


def _gram(problem: Problem, v: Tensor) -> Tensor:
    # K - 1 has the same centered matrix and, even in float64, five digits more of it.
    return reference.gaussian_gram(v, problem.gamma(v), minus_one=True)


#: Above this n a float64 n x n autograd graph is too large: hsic goes by row panels.
DENSE_UP_TO = 8192
PANEL_ROWS = 512


def hsic_truth(problem: Problem) -> Tensor:
    """hsic(X, Z) of a pair: dense, or above DENSE_UP_TO samples in O(n) memory per panel row."""
    if problem.n <= DENSE_UP_TO:
        return measure_truth("hsic", problem)
    return hsic_by_panels(problem, PANEL_ROWS)


def hsic_by_panels(problem: Problem, rows: int) -> Tensor:
    """hsic(X, Z) with its gradient in Z by the closed form, ``rows`` rows of K and L at a time.

    G = dvalue/dK_Z = H K_X H / (n - 1)^2, W = G o K_Z, gradient -4 gamma (diag(W 1) - W) Z.
    """
    (z,) = problem.layers
    n, scale = problem.n, (problem.n - 1) ** 2
    with torch.no_grad():
        x = problem.x - problem.x.mean(0)
        z0 = z - z.mean(0)
        panels = [slice(i, min(i + rows, n)) for i in range(0, n, rows)]
        sums = [_panel(problem, v, p).sum(1) for p in panels for v in (x, z0)]
        k_sums, l_sums = torch.cat(sums[0::2]), torch.cat(sums[1::2])
        value, grad = x.new_zeros(()), torch.empty_like(z0)
        for p in panels:
            K, L = _panel(problem, x, p), _panel(problem, z0, p)
            value += (K * L).sum()
            G = K - (k_sums[p, None] + k_sums[None, :]) / n + k_sums.sum() / n**2
            W = G / scale * (L + 1)
            grad[p] = -4 * problem.gamma(z) * (W.sum(1, keepdim=True) * z0[p] - W @ z0)
        value += k_sums.sum() * l_sums.sum() / n**2 - 2 / n * torch.dot(k_sums, l_sums)
    # A function of z with this value and this gradient, so that it is used as every other truth.
    linear = (z * grad).sum()
    return value / scale + linear - linear.detach()


def _panel(problem: Problem, v: Tensor, rows: slice) -> Tensor:
    """Rows of K - 1 of centered features, (p, n)."""
    squares = v.square().sum(1)
    D = squares[rows, None] + squares[None, :] - 2 * (v[rows] @ v.T)
    return torch.expm1(-problem.gamma(v) * D.clamp_min(0))
