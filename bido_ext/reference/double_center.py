# SPDX-License-Identifier: Apache-2.0
"""Double centering, H K H with the centering matrix H = I - 11'/n."""

from __future__ import annotations

from torch import Tensor


def double_center(K: Tensor) -> Tensor:
    """K - row means - column means + total mean; (n, n) -> (n, n)."""
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()
