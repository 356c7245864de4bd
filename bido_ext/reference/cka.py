# SPDX-License-Identifier: Apache-2.0
"""Centered kernel alignment of two Gram matrices."""

from __future__ import annotations

from torch import Tensor

from bido_ext.reference.hsic import hsic


def cka(K: Tensor, L: Tensor) -> Tensor:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Cortes et al. 2012; Kornblith et al. 2019)."""
    return hsic(K, L) / (hsic(K, K) * hsic(L, L)).sqrt()
