# SPDX-License-Identifier: Apache-2.0
"""Distance covariance and correlation (Szekely et al. 2007; unbiased: Szekely and Rizzo 2014)."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.hsic import hsic


def distance_matrix(x: Tensor, beta: float = 1.0) -> Tensor:
    """|x_i - x_j|^beta of the rows of x (n, d) by differences; its gradient is 0 where samples coincide."""
    squared = (x[:, None] - x[None, :]).square().sum(2)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0) ** (beta / 2), 0.0)


def squared_distance_covariance(
    x: Tensor, y: Tensor, unbiased: bool = False, beta: float = 1.0
) -> Tensor:
    """sum_ij A_ij B_ij / n^2 of double-centered distances A, B; unbiased: U-centered, over n (n - 3)."""
    n = x.shape[0]
    value = hsic(-distance_matrix(x, beta), -distance_matrix(y, beta), unbiased)
    return value if unbiased else value * (n - 1) ** 2 / n**2


def distance_covariance(x: Tensor, y: Tensor, beta: float = 1.0) -> Tensor:
    """The root of the biased squared distance covariance."""
    return squared_distance_covariance(x, y, False, beta).sqrt()


def squared_distance_correlation(
    x: Tensor, y: Tensor, unbiased: bool = False, beta: float = 1.0
) -> Tensor:
    """V(x, y) / sqrt(V(x, x) V(y, y)) of squared distance covariances V."""
    xx, yy = (squared_distance_covariance(v, v, unbiased, beta) for v in (x, y))
    return squared_distance_covariance(x, y, unbiased, beta) / (xx * yy).sqrt()
