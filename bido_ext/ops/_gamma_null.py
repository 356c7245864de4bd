# SPDX-License-Identifier: Apache-2.0
"""The gamma distribution that n HSIC (biased) has about under independence (Gretton et al. 2008, equations 5
to 9), for any kernel, by panels of rows.

    E[HSIC] = k l / n,   k = mean_i K_ii - mean_{i != j} K_ij  (1 - |mu_x|^2 of a kernel with k(x, x) = 1)
    Var[HSIC] = 2 (n-4)(n-5) / (n (n-1)(n-2)(n-3)) mean_{i != j} ((HKH)_ij (HLH)_ij)^2
    n HSIC ~ Gamma(shape = E^2 / Var, scale = n Var / E),   HSIC = tr(HKH HLH) / n^2
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from bido_ext.ops._centered_gram import PANEL, CenteredGram


class GammaNull(NamedTuple):
    """A gamma distribution of the statistic as it is reported: shape, and scale in the statistic's units."""

    shape: float
    scale: float


def gamma_test(K: CenteredGram, L: CenteredGram) -> tuple[float, float, GammaNull]:
    """The biased HSIC tr(HKH HLH) / (n-1)^2 of two variables, its p-value, and the null distribution."""
    n = K.n
    total = squares = 0.0
    for begin in range(0, n, PANEL):
        rows = slice(begin, begin + PANEL)
        product = K.panel(rows).mul_(L.panel(rows))
        total += float(product.sum())
        squares += float(product.square().sum() - product.diagonal(begin).square().sum())
    mean = _spread(K) * _spread(L) / n
    variance = 2 * (n - 4) * (n - 5) / (n * (n - 1) * (n - 2) * (n - 3)) * squares / (n * (n - 1))
    statistic = total / (n - 1) ** 2
    if mean <= 0 or variance <= 0:  # a constant variable: nothing depends on it
        return statistic, 1.0, GammaNull(float("nan"), 0.0)
    null = GammaNull(mean**2 / variance, variance / mean * n**2 / (n - 1) ** 2)
    upper = torch.special.gammaincc(
        torch.tensor(null.shape, dtype=torch.float64),
        torch.tensor(max(statistic, 0.0) / null.scale, dtype=torch.float64),
    )
    return statistic, float(upper), null


def _spread(K: CenteredGram) -> float:
    """The mean of the diagonal less that of the other entries; the same for every K with the same HKH."""
    n, diagonal = K.n, float(K.raw_diagonal().sum())
    everything = n * float(K.means.sum())
    return diagonal / n - (everything - diagonal) / (n * (n - 1))
