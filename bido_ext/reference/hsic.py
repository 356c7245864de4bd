# SPDX-License-Identifier: Apache-2.0
"""Hilbert-Schmidt independence criterion of two Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.double_center import double_center


def hsic(K: Tensor, L: Tensor, unbiased: bool = False) -> Tensor:
    """tr(HKH HLH) / (n-1)^2 (Gretton et al. 2005); unbiased: Song et al. 2012, equation 5."""
    n = K.shape[0]
    if not unbiased:
        return (double_center(K) * double_center(L)).sum() / (n - 1) ** 2
    K = K - torch.diag(K.diagonal())
    L = L - torch.diag(L.diagonal())
    trace = (K * L).sum()
    totals = K.sum() * L.sum() / ((n - 1) * (n - 2))
    cross = 2 * (K.sum(0) @ L.sum(0)) / (n - 2)
    return (trace + totals - cross) / (n * (n - 3))


def hsic_gradient(L: Tensor, unbiased: bool = False) -> Tensor:
    """d hsic(K, L) / dK for symmetric L: H L H / (n-1)^2, or the derivative of Song's equation 5."""
    n = L.shape[0]
    if not unbiased:
        return double_center(L) / (n - 1) ** 2
    L = L - torch.diag(L.diagonal())
    sums = L.sum(0)
    G = L + L.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None, :]) / (n - 2)
    return (G - torch.diag(G.diagonal())) / (n * (n - 3))
