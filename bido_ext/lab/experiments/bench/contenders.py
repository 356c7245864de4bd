# SPDX-License-Identifier: Apache-2.0
"""Who computes the value: bido_ext, plain eager PyTorch, and the float64 textbook; each a 0-d tensor.

COCO is measured with the Frobenius norm, the one the published algorithm has.
"""

from __future__ import annotations

import torch
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.lab.experiments.bench.problem import BenchProblem
from bido_ext.reference.nhsic import nhsic_factor


def own(measure: str, problem: BenchProblem) -> Tensor:
    """As a user calls it: BiDOLoss with labels, else the function of two variables."""
    if problem.labels is not None:
        criterion = bx.BiDOLoss(
            measure,
            problem.lambda_x,
            problem.lambda_y,
            problem.sigma,
            eps=problem.eps,
            coco_norm="fro",
        )
        return criterion(problem.x, list(problem.layers), problem.labels)
    kernel = bx.Gaussian(problem.sigma)
    arguments = (problem.x, problem.layers[0], kernel, kernel)
    if measure == "nhsic":
        return bx.nhsic(*arguments, eps=problem.eps)
    if measure == "coco":
        return bx.coco(*arguments, norm="fro")
    return bx.hsic(*arguments) if measure == "hsic" else bx.cka(*arguments)


def eager(measure: str, problem: BenchProblem) -> Tensor:
    """The formulas of bido_ext.reference with autograd, in the dtype of the problem.

    What a careful user writes: every variable is prepared once and shared by its pairs.
    """
    x = _prepare(measure, _gram(problem, problem.x), problem.eps)
    layers = [_prepare(measure, _gram(problem, z), problem.eps) for z in problem.layers]
    if problem.labels is None:
        return _prepared_pair(measure, x, layers[0])
    y = _prepare(measure, _label_gram(problem), problem.eps)
    total = x.new_zeros(())
    for z in layers:
        total = total + problem.lambda_x * _prepared_pair(measure, x, z)
        total = total - problem.lambda_y * _prepared_pair(measure, z, y)
    return total


def textbook(measure: str, problem: BenchProblem) -> Tensor:
    """The definition, pair by pair, with nothing shared but the Gram matrices; give it float64."""
    K = _gram(problem, problem.x, minus_one=True)
    layers = [_gram(problem, z, minus_one=True) for z in problem.layers]
    if problem.labels is None:
        return _dependence(measure, K, layers[0], problem.eps)
    L = _label_gram(problem)
    total = K.new_zeros(())
    for M in layers:
        total = total + problem.lambda_x * _dependence(measure, K, M, problem.eps)
        total = total - problem.lambda_y * _dependence(measure, M, L, problem.eps)
    return total


def _gram(problem: BenchProblem, v: Tensor, minus_one: bool = False) -> Tensor:
    return reference.gaussian_gram(v, 1 / (2 * problem.sigma**2 * v.shape[1]), minus_one)


def _label_gram(problem: BenchProblem) -> Tensor:
    labels = problem.labels
    assert labels is not None
    return (labels[:, None] == labels[None, :]).to(problem.x.dtype)


def _dependence(measure: str, K: Tensor, L: Tensor, eps: float) -> Tensor:
    if measure == "nhsic":
        return reference.nhsic(K, L, eps)
    if measure == "coco":
        return reference.coco(K, L, "fro")
    return reference.hsic(K, L) if measure == "hsic" else reference.cka(K, L)


def _prepare(measure: str, K: Tensor, eps: float) -> Tensor:
    if measure == "nhsic":
        return nhsic_factor(K, eps)[0]
    Kc = reference.double_center(K)
    return Kc / torch.linalg.matrix_norm(Kc) if measure == "cka" else Kc


def _prepared_pair(measure: str, a: Tensor, b: Tensor) -> Tensor:
    n = a.shape[0]
    if measure == "coco":
        return torch.linalg.matrix_norm(a @ b).sqrt() / n
    inner = (a * b.T).sum()
    return inner / (n - 1) ** 2 if measure == "hsic" else inner
