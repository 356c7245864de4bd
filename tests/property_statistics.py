# SPDX-License-Identifier: Apache-2.0
"""Random inputs of mmd and of the distance statistics, their truth and budget: those of property_cases.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import property_cases as cases
import torch
from property_cases import Case
from torch import Tensor

import bido_ext as bx

STATISTICS = ("mmd", "distance_covariance", "distance_correlation")


@dataclass(frozen=True)
class StatisticCase:
    """One input of one statistic; of ``case`` the data, kernel and seed count.

    Attributes:
        shift: Of mmd: the power of ten that the second half of the samples is moved by, in units of the scale.
    """

    statistic: str
    unbiased: bool
    beta: float
    shift: float
    case: Case


def _samples(case: StatisticCase) -> tuple[Tensor, Tensor]:
    if case.statistic != "mmd":
        return cases.tensors(case.case)
    x, _ = cases.tensors(replace(case.case, y=None))
    half = len(x) // 2
    moved = x[half:].double() + 10 ** (case.shift + case.case.x.log_scale)
    return x[:half], moved.to(x.dtype)


def worst_ratio(case: StatisticCase) -> tuple[float, str]:
    """As property_cases.worst_ratio."""
    x, y = _samples(case)
    leaf = x.clone().requires_grad_()
    estimator = "unbiased" if case.unbiased else "biased"
    kernel: bx.Kernel = bx.Energy(case.beta)
    try:
        if case.statistic == "mmd":
            kernel = cases.kernel_of(case.case, case.case.kernel, case.case.x)
            value = bx.mmd(leaf, y, kernel, estimator)
        else:
            value = getattr(bx, case.statistic)(leaf, y, estimator, case.beta)
    except ValueError as error:
        said = str(error)
        assert cases.refused_with_reason(said), f"refused for no reason on the list: {said}"
        return 0.0, said
    value.backward()
    assert leaf.grad is not None
    assert bool(torch.isfinite(value.detach())), "not finite"
    assert bool(torch.isfinite(leaf.grad).all()), "not finite"
    both = torch.cat([x, y]).double() if case.statistic == "mmd" else x.double()
    E = cases._gram(both, kernel).requires_grad_()
    true, bound = _truth(case, E, y, len(x))
    if not math.isfinite(float(true)):  # 0/0 of constant features, which the package defines as 0
        assert float(value) == 0
        return 0.0, "constant"
    error = abs(float(value) - float(true))
    ratio = error / (1e-5 * max(abs(float(true)), 0.01 * bound) + cases.TINY)
    (G,) = torch.autograd.grad(true, E)
    if float(true) == 0 or not bool(torch.isfinite(G).all()):
        return ratio, "value"
    size = G.abs()
    if case.statistic == "distance_covariance" and case.unbiased:
        # As property_cases.truth: where the centered y is 0 (one sample of four is of another class), what is
        # left is round-off of numbers as large as its entries.
        size = size + 1e-8 * float(_partner(case, y).abs().amax()) / len(x) ** 2
    gradient, terms = cases._of_features(both, kernel, E.detach(), G, size)
    gradient = gradient[: len(x)]
    budget = 1e-5 * float(gradient.norm()) + cases.ROUNDOFF * terms + cases.TINY
    of_gradient = float((leaf.grad.double() - gradient).norm()) / budget
    return (of_gradient, "gradient") if of_gradient > ratio else (ratio, "value")


def _partner(case: StatisticCase, y: Tensor) -> Tensor:
    """Minus the distances of y."""
    if y.dim() == 1:
        return -(y[:, None] != y[None]).double() * 2 ** (case.beta / 2)
    return cases._gram(y.double(), bx.Energy(case.beta))


def _truth(case: StatisticCase, E: Tensor, y: Tensor, n: int) -> tuple[Tensor, float]:
    """The statistic of float64 entries, and what bounds it (Cauchy-Schwarz)."""
    if case.statistic == "mmd":
        size = cases._center(E.detach()).norm() * (1 / n + 1 / (len(E) - n))
        return bx.reference.mmd(E, n, case.unbiased), float(size)
    L = _partner(case, y)

    def product(K: Tensor, L: Tensor) -> Tensor:
        if case.unbiased:
            return (cases._u_center(K) * cases._u_center(L)).sum() / (n * (n - 3))
        return (cases._center(K) * cases._center(L)).sum() / n**2

    value, size = product(E, L), (product(E, E) * product(L, L)).sqrt()
    if case.statistic == "distance_correlation":
        value, size = value / size, torch.ones(())
    if not case.unbiased:
        value, size = value.clamp_min(0).sqrt(), size.sqrt()
    return value, float(size.detach())
