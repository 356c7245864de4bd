# SPDX-License-Identifier: Apache-2.0
"""Double centering: H K H, in two passes over K."""

from __future__ import annotations

from torch import Tensor


def double_center(K: Tensor) -> Tensor:
    """The contract of bido_ext.ops.double_center."""
    rows = K.mean(1, keepdim=True)
    result = K - rows
    result -= result.mean(0, keepdim=True)
    return result
