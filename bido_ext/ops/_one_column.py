# SPDX-License-Identifier: Apache-2.0
"""HSIC with the kernel -|a - b| of pairs of columns from sorted samples: O(n log n), without derivatives.

With D, E the distances, r, s their row sums and t, u their totals (Huo and Szekely 2016, section 3):
biased:    (sum_ij D_ij E_ij - 2 r.s / n + t u / n^2) / (n - 1)^2
unbiased:  (sum_ij D_ij E_ij - 2 r.s / (n-2) + t u / ((n-1)(n-2))) / (n (n-3))

U-centering takes off what is added to all distances of one sample. So for unbiased values the least sample
is put on the next one, and the largest too: these terms would lose digits to a far sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.ops.distance_products import distance_products
from bido_ext.ops.group import Pairs


def hsic_of_columns(variables: Sequence[Tensor], pairs: Pairs, unbiased: bool) -> Tensor:
    """HSIC of pairs of variables (n, 1), [pairs] float64."""
    given = torch.stack([v.detach()[:, 0].double() for v in variables])
    n = given.shape[1]
    ascending, order = given.sort(1)
    center = ascending[:, n // 2 : n // 2 + 1].clone()  # a far sample does not move it
    ascending, given = ascending - center, given - center
    if unbiased:
        finite = 0 * (ascending[:, :1] - ascending[:, -1:])  # else NaN
        least, most = ascending[:, 1:2].clone(), ascending[:, -2:-1].clone()
        ascending, given = (v.clamp(least, most) + finite for v in (ascending, given))
    sums = torch.empty_like(given).scatter_(1, order, _row_sums(ascending))
    totals = sums.sum(1)
    sums = sums - totals[:, None] / n
    rest = sums @ sums.mT  # r.s less t u / n
    # Of a column with itself: sum_ij (x_i - x_j)^2.
    own = 2 * n * (ascending - ascending.mean(1, keepdim=True)).square().sum(1)
    products = [
        own[i : i + 1] if i == j else distance_products(ascending[i], given[j][order[i]])
        for i, j in zip(*pairs, strict=True)
    ]
    first, second = pairs
    rest, totals = rest[first, second], totals[first] * totals[second]
    if unbiased:
        taken = (2 / (n - 2)) * rest + totals / (n * (n - 1))
        return (torch.cat(products) - taken) / (n * (n - 3))
    return (torch.cat(products) - (2 / n) * rest - totals / n**2) / (n - 1) ** 2


def _row_sums(ascending: Tensor) -> Tensor:
    """Sums of the distances of each sample of ascending columns (m, n)."""
    n = ascending.shape[1]
    # The samples up to x_k are k + 1, those beyond n - 1 - k.
    below = ascending.cumsum(1)
    count = torch.arange(2 - n, n + 2, 2, dtype=torch.float64, device=ascending.device)
    return (ascending * count).add_(below[:, -1:]).sub_(below, alpha=2)
