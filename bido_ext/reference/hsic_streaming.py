# SPDX-License-Identifier: Apache-2.0
"""HSIC of two variables from their features: Gram matrices first, then the formula."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.reference.gaussian_gram import gaussian_gram
from bido_ext.reference.hsic import hsic


def hsic_streaming(x: Tensor, y: Tensor, gamma_x: float, gamma_y: float) -> Tensor:
    """HSIC(x, y), HSIC(x, x), HSIC(y, y) with Gaussian kernels; the streaming op keeps no K, no L."""
    K, L = gaussian_gram(x, gamma_x), gaussian_gram(y, gamma_y)
    return torch.stack([hsic(K, L), hsic(K, K), hsic(L, L)])
