# SPDX-License-Identifier: Apache-2.0
"""sum_ij |x_i - x_j| |y_i - y_j| of two columns."""

from __future__ import annotations

from torch import Tensor


def distance_products(x: Tensor, y: Tensor) -> Tensor:
    """The sum over all pairs of the entries of x and y (n); 0-d."""
    return ((x[:, None] - x).abs() * (y[:, None] - y).abs()).sum()
