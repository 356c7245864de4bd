# SPDX-License-Identifier: Apache-2.0
"""nhsic by a blocked sweep: after the factor of a tile of pivots everything is a batched product.

As csrc/cpu/spd_inverse.h: with U'U the pivot block, B the columns of the pivots and W = B U^-1,

    A_IJ -= W_I W_J',   A_IK = W_I U^-T,   A_KK = -U^-1 U^-T,

and at the end A is -(Kc + c I)^-1. The error grows with the condition number as that of a Cholesky factor.
"""

from __future__ import annotations

from torch import Tensor

from bido_ext.composed._nhsic_step import functions_with
from bido_ext.composed.nhsic import inverse_factors

#: Rows of a tile: enough for a product to be one, few enough that its factor is short beside it.
TILE = 128


def inverses(ridged: Tensor, tile: int = TILE) -> Tensor:
    """Of symmetric positive definite matrices (b, n, n), which are overwritten; NaN for the others."""
    A, n = ridged, ridged.shape[-1]
    for begin in range(0, n, tile):
        pivots = slice(begin, min(n, begin + tile))
        lower = inverse_factors(A[:, pivots, pivots])  # U^-T
        W = A[:, :, pivots] @ lower.mT
        A.baddbmm_(W, W.mT, alpha=-1)
        swept = W @ lower
        A[:, :, pivots] = swept
        A[:, pivots, :] = swept.mT
        A[:, pivots, pivots] = (lower.mT @ lower).neg_()
    return A.neg_()


nhsic, nhsic_backward = functions_with(inverses)
