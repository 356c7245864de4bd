# SPDX-License-Identifier: Apache-2.0
"""Normalised HSIC: the trace form of the normalised cross-covariance operator (NOCCO)."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.double_center import double_center


def nhsic_factor(K: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """S = Kc (Kc + eps n I)^-1 = I - eps n P and the inverse P, with Kc = H K H."""
    n = K.shape[0]
    eye = torch.eye(n, dtype=K.dtype, device=K.device)
    P = torch.linalg.inv(double_center(K) + eps * n * eye)
    return eye - eps * n * P, P


def nhsic(K: Tensor, L: Tensor, eps: float = 1e-5) -> Tensor:
    """tr(S_K S_L) (Fukumizu et al. 2007; Ma et al. 2020, HSIC bottleneck)."""
    return (nhsic_factor(K, eps)[0] * nhsic_factor(L, eps)[0].T).sum()
