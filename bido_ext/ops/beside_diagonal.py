# SPDX-License-Identifier: Apache-2.0
"""What unbiased estimators see of a Gram matrix that a kernel of the user's own made.

They ignore the diagonal, and all that rows have in common: K_ij + a_i + a_j gives the same as K_ij. For a
narrow kernel or beside a far sample this common part is nearly all of K - 1 and cancels in the sums. So it is
taken off once, in float64, before the sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.hsic import u_center

#: With less left than this share of the entries, round-off of K is more than 1e-6 of what is left.
SMALLEST_SHARE = 1e-9


def beside_diagonal(K: Tensor) -> Tensor:
    """U-centered K (n, n) float64, n >= 4 (Szekely and Rizzo 2014): same unbiased HSIC, nothing left to cancel.

    It is 0 if all entries beside the diagonal are equal, and NaN if they differ by round-off only.
    Differentiable in K.
    """
    n = K.shape[0]
    own = torch.eye(n, dtype=torch.bool, device=K.device)
    U = u_center(K)
    with torch.no_grad():
        inf = float("inf")
        low, high = K.masked_fill(own, inf).amin(), K.masked_fill(own, -inf).amax()
        size = torch.maximum(low.abs(), high.abs())
        lost = (low < high) & (U.abs().amax() < SMALLEST_SHARE * size)
    return torch.where(low < high, U, 0 * U).masked_fill(lost, float("nan"))
