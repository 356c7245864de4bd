# SPDX-License-Identifier: Apache-2.0
"""nhsic by batched Cholesky factors: P = L^-T L^-1, a triangular solve and a product."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.composed._nhsic_step import functions_with


def inverses(ridged: Tensor) -> Tensor:
    """Of symmetric positive definite matrices (b, n, n); NaN for the others."""
    W = inverse_factors(ridged)
    return W.mT @ W


def inverse_factors(ridged: Tensor) -> Tensor:
    """L^-1 of L L' (b, n, n), lower triangular; NaN where there is none."""
    # _ex: no check on the host.
    L, info = torch.linalg.cholesky_ex(ridged)
    L.masked_fill_((info != 0)[:, None, None], float("nan"))
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    return torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)


nhsic, nhsic_backward = functions_with(inverses)
