# SPDX-License-Identifier: Apache-2.0
"""Centered kernel alignment of two Gram matrices."""

from __future__ import annotations

from torch import Tensor

from bido_ext.reference.hsic import hsic


def cka(K: Tensor, L: Tensor, unbiased: bool = False) -> Tensor:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Cortes et al. 2012; Kornblith et al. 2019).

    unbiased: each HSIC is that of Song et al. 2012, equation 5 (Nguyen et al. 2021); NaN where one of a
    matrix with itself is 0, or by rounding less.
    """
    own = hsic(K, K, unbiased), hsic(L, L, unbiased)
    return hsic(K, L, unbiased) / (own[0].sqrt() * own[1].sqrt())
