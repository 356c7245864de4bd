# SPDX-License-Identifier: Apache-2.0
"""Sum of products of distances of two columns: what distance covariance is made of where x and y have one.

x: [n] ascending, y: [n] in the same order, float64  ->  value: [1] float64,  sum_ij |x_i - x_j| |y_i - y_j|

O(n log n) on the CPU; elsewhere n^2 operations and O(n) memory. It has no derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._define import define_op

#: Products of a block of rows.
BLOCK = 1 << 22


def distance_products(x: Tensor, y: Tensor) -> Tensor:
    """sum_ij |x_i - x_j| |y_i - y_j|, [1].

    Args:
        x: (n,) float64, ascending; less its median, if it has an offset: sums of x y are taken.
        y: (n,) float64, the same samples; likewise.
    """
    return torch.ops.bido_ext.distance_products(x, y)


def _default(x: Tensor, y: Tensor) -> Tensor:
    total, rows = x.new_zeros((1,)), max(1, BLOCK // max(1, len(x)))
    for a, b in zip(x.split(rows), y.split(rows), strict=True):
        total += ((a[:, None] - x).abs_() * (b[:, None] - y).abs_()).sum()
    return total


define_op(
    "distance_products",
    "(Tensor x, Tensor y) -> Tensor",
    default=_default,
    fake=lambda x, y: x.new_empty((1,)),
)
