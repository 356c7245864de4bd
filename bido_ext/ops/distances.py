# SPDX-License-Identifier: Apache-2.0
"""Euclidean distances of the rows of two matrices, in float64, without a derivative.

They are exact where samples coincide or nearly do: a root makes an error of 1e-16 in a squared distance one of
1e-8. Up to DIRECT_UP_TO columns they are sums of squared differences; beyond, a matrix product gives them from
features less their medians (a far sample does not move those), and the pairs that are close beside their norms
are made again from differences.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Columns up to which differences are as fast as a product.
DIRECT_UP_TO = 16
#: Pairs with |x_i - x_j|^2 below this share of |x_i|^2 + |x_j|^2 are made again from differences.
CLOSE = 1e-3
#: Rows of a block, which stays in cache between the steps.
ROWS = 128
#: Columns of differences at once.
PAIRS = 1 << 16


def cross_distances(a: Tensor, b: Tensor, squared: bool = False) -> Tensor:
    """|a_i - b_j|, or its square, of rows (m, d) and (n, d), (m, n) float64, without a derivative."""
    a, b = a.double(), b.double()
    if a.shape[1] == 1:
        r = (a - b.T).abs_()
        return r.square_() if squared else r
    if a.shape[1] <= DIRECT_UP_TO:
        r = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return r.square_() if squared else r
    # Less the medians they are rounded: nothing beside their norms, but close pairs see it.
    given_a, given_b = a, b
    center = b.median(0).values
    a, b = a - center, b - center
    own, other = a.square().sum(1), b.square().sum(1)
    result = b.new_empty((len(a), len(b)))
    for begin in range(0, len(a), ROWS):
        rows, D = a[begin : begin + ROWS], result[begin : begin + ROWS]
        size = own[begin : begin + ROWS, None] + other
        torch.mm(rows, b.T, out=D)
        D.mul_(-2).add_(size)
        close = (size.mul_(CLOSE) > D).nonzero()
        for some in close.split(max(1, PAIRS // a.shape[1])):
            i, j = some.unbind(1)
            D[i, j] = (given_a[begin + i] - given_b[j]).square_().sum(1)
        if not squared:
            D.sqrt_()
    return result
