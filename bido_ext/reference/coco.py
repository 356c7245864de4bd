# SPDX-License-Identifier: Apache-2.0
"""Constrained covariance of two Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.double_center import double_center


def coco(K: Tensor, L: Tensor, norm: str = "spectral") -> Tensor:
    """sqrt(|HKH HLH|) / n: the largest singular value (Gretton et al. 2005) or the Frobenius norm."""
    M = double_center(K) @ double_center(L)
    return torch.linalg.matrix_norm(M, 2 if norm == "spectral" else "fro").sqrt() / K.shape[0]
