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
    # The same as the product of the U-centered matrices (Szekely and Rizzo 2014), which does not cancel.
    return (u_center(K) * u_center(L)).sum() / (n * (n - 3))


def hsic_gradient(L: Tensor, unbiased: bool = False) -> Tensor:
    """d hsic(K, L) / dK for symmetric L: H L H / (n-1)^2, or the derivative of Song's equation 5."""
    n = L.shape[0]
    if not unbiased:
        return double_center(L) / (n - 1) ** 2
    return u_center(L) / (n * (n - 3))


def u_center(L: Tensor) -> Tensor:
    """L (n, n) beside the diagonal less what rows and columns have in common; the diagonal is 0."""
    n = L.shape[0]
    L = L - torch.diag(L.diagonal())
    sums = L.sum(0)
    U = L + L.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None, :]) / (n - 2)
    return U - torch.diag(U.diagonal())
