# SPDX-License-Identifier: Apache-2.0
"""The gamma distribution that n HSIC (biased) has about under independence (Gretton et al. 2008, equations 5
to 9), for any kernel, by panels of rows.

    E[HSIC] = k l / n,   k = mean_i K_ii - mean_{i != j} K_ij  (1 - |mu_x|^2 of a kernel with k(x, x) = 1)
    Var[HSIC] = 2 (n-4)(n-5) / (n (n-1)(n-2)(n-3)) mean_{i != j} ((HKH)_ij (HLH)_ij)^2
    n HSIC ~ Gamma(shape = E^2 / Var, scale = n Var / E),   HSIC = tr(HKH HLH) / n^2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from bido_ext.ops._centered_gram import PANEL, CenteredGram


class GammaNull(NamedTuple):
    """A gamma distribution of the statistic as it is reported: shape, and scale in the statistic's units."""

    shape: float
    scale: float


def gamma_test(
    K: CenteredGram, L: CenteredGram, check: Callable[[tuple[float, float]], None]
) -> tuple[float, float, GammaNull]:
    """The biased HSIC tr(HKH HLH) / (n-1)^2 of two variables, its p-value, and the null distribution.

    Args:
        check: Raises if the means of the diagonals of HKH and HLH are no sizes to compute with.
    """
    n = K.n
    a, b = _spread(K), _spread(L)
    check((abs(a), abs(b)))
    unit = abs(a * b)  # its square, and that of a product of entries, need not be float64 numbers
    total = squares = 0.0
    for begin in range(0, n, PANEL):
        rows = slice(begin, begin + PANEL)
        product = K.panel(rows).mul_(L.panel(rows)).mul_(1 / unit)
        total += float(product.sum())
        squares += float(product.square().sum() - product.diagonal(begin).square().sum())
    mean = a * b / unit / n
    variance = 2 * (n - 4) * (n - 5) / (n * (n - 1) * (n - 2) * (n - 3)) * squares / (n * (n - 1))
    statistic = total / (n - 1) ** 2
    if mean <= 0 or variance <= 0:  # no kernel: its Gram matrix is not positive semidefinite
        return statistic * unit, 1.0, GammaNull(float("nan"), 0.0)
    shape, scale = mean**2 / variance, variance / mean * n**2 / (n - 1) ** 2
    upper = torch.special.gammaincc(
        torch.tensor(shape, dtype=torch.float64),
        torch.tensor(max(statistic, 0.0) / scale, dtype=torch.float64),
    )
    return statistic * unit, float(upper), GammaNull(shape, scale * unit)


def _spread(K: CenteredGram) -> float:
    """The mean of the diagonal less that of the other entries; the same for every K with the same HKH."""
    n, diagonal = K.n, float(K.raw_diagonal().sum())
    everything = n * float(K.means.sum())
    return diagonal / n - (everything - diagonal) / (n * (n - 1))
