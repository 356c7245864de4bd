# SPDX-License-Identifier: Apache-2.0
"""KeOps LazyTensors: O(n) memory, symbolic gradients; HSIC of a pair only.

Its OpenMP runtime slows the products of this process, so benchmarks/isolated.py runs it in one of its
own. KeOps has no expm1; exp - 1 keeps enough of K - 1 for the one-pass formula in float32.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import Problem

MEASURES = frozenset({"hsic"})


def importable() -> bool:
    """Whether pykeops is installed; looking does not load it."""
    return importlib.util.find_spec("pykeops") is not None


def loss(measure: str, problem: Problem) -> Tensor:
    """HSIC(X, Z) = (sum E_K E_L - (2/n) k'l + (1'k)(1'l) / n^2) / (n - 1)^2; k, l: row sums."""
    if measure != "hsic" or problem.labels is not None:
        raise ValueError("the KeOps rival is written for the hsic of a pair.")
    n = problem.n
    (z,) = problem.layers
    K = _lazy_gram(problem.x, problem.gamma(problem.x))
    L = _lazy_gram(z, problem.gamma(z))
    k_sums, l_sums, cross = (matrix.sum(1).view(n) for matrix in (K, L, K * L))
    centered = cross.sum() - 2 / n * torch.dot(k_sums, l_sums)
    return (centered + k_sums.sum() * l_sums.sum() / n**2) / (n - 1) ** 2


def _lazy_gram(x: Tensor, gamma: float) -> Any:
    from pykeops.torch import LazyTensor

    x = x.contiguous()
    x_i, x_j = LazyTensor(x[:, None, :]), LazyTensor(x[None, :, :])
    return (-gamma * ((x_i - x_j) ** 2).sum(-1)).exp() - 1
