# SPDX-License-Identifier: Apache-2.0
"""Squared maximum mean discrepancy of two samples (Gretton et al. 2012)."""

from __future__ import annotations

from torch import Tensor


def mmd(K: Tensor, n: int, unbiased: bool = False) -> Tensor:
    """Equation 5 squared, or unbiased, equation 3, from the Gram matrix (n + m, n + m) of both samples."""
    m = K.shape[0] - n
    xx, yy, xy = K[:n, :n], K[n:, n:], K[:n, n:]
    if not unbiased:
        return xx.mean() + yy.mean() - 2 * xy.mean()
    within_x = (xx.sum() - xx.trace()) / (n * (n - 1))
    within_y = (yy.sum() - yy.trace()) / (m * (m - 1))
    return within_x + within_y - 2 * xy.mean()
