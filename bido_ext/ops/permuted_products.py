# SPDX-License-Identifier: Apache-2.0
"""What a permutation test sums: tr(K P L P') of two centered Gram matrices for many permutations.

rows: [m, n] rows first .. first + m of symmetric K, L: [n, n] symmetric, permutations: [B, n] int32
    ->  values: [B] float64,  sum over those rows i of  K_ii L_p(i)p(i) + 2 sum_{j<i} K_ij L_p(i)p(j)
A: [n, r], B: [n, s] float64, permutations: [B, n] int32  ->  values: [B] float64,  |A' B[p]|^2
rows as above, labels: [B, n] int32, y_p(i)  ->  values: [B] float64,
    sum over those rows i of  K_ii + 2 sum_{j<i} K_ij [y_p(i) = y_p(j)]

Over all rows the first is sum_ij K_ij L_p(i)p(j), the second the same of K = A A', L = B B', the
third of L_ij = [y_i = y_j]. None has a derivative: a null distribution needs none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._define import define_op


def permuted_products(rows: Tensor, first: int, L: Tensor, permutations: Tensor) -> Tensor:
    """The share of rows ``first, first + 1, ...`` of K in tr(K P L P') for each permutation, [B] float64.

    Args:
        rows: (m, n), float32 or float64: consecutive rows of a symmetric matrix K (n, n).
        first: The number of the first.
        L: Symmetric (n, n), in the dtype of rows.
        permutations: (B, n) int32; sample i of K meets sample permutations[b, i] of L.
    """
    return torch.ops.bido_ext.permuted_products(rows, first, L, permutations)


def permuted_factor_products(A: Tensor, B: Tensor, permutations: Tensor) -> Tensor:
    """tr(K P L P') of K = A A', L = B B' for each permutation, [B] float64.

    Args:
        A: (n, r) float64.
        B: (n, s) float64.
        permutations: (B, n) int32.
    """
    return torch.ops.bido_ext.permuted_factor_products(A, B, permutations)


def permuted_class_sums(rows: Tensor, first: int, labels: Tensor) -> Tensor:
    """The share of rows ``first, first + 1, ...`` of K in tr(K P L P') of L_ij = [y_i = y_j], [B] float64.

    Args:
        rows: (m, n), float32 or float64: consecutive rows of a symmetric matrix K (n, n).
        first: The number of the first.
        labels: (B, n) int32, the permuted labels: labels[b, i] = y[permutations[b, i]].
    """
    return torch.ops.bido_ext.permuted_class_sums(rows, first, labels)


def _default(rows: Tensor, first: int, L: Tensor, permutations: Tensor) -> Tensor:
    """One permuted matrix at a time; right on every device."""
    m, below, wide = rows.shape[0], _twice_below(rows, first), L.double()
    values = [
        (below * wide[p[first : first + m]][:, p]).sum() for p in permutations.long().unbind()
    ]
    return torch.stack(values) if values else wide.new_empty((0,))


def _default_classes(rows: Tensor, first: int, labels: Tensor) -> Tensor:
    m, below = rows.shape[0], _twice_below(rows, first)
    values = [(below * (y[first : first + m, None] == y)).sum() for y in labels.unbind()]
    return torch.stack(values) if values else below.new_empty((0,))


def _twice_below(rows: Tensor, first: int) -> Tensor:
    """Of row first + i: twice the entries before the diagonal, once that on it, none beyond; float64."""
    wide = rows.double()
    return wide.tril(first - 1) + wide.tril(first)


def _default_factors(A: Tensor, B: Tensor, permutations: Tensor) -> Tensor:
    values = [(A.T @ B[p]).square().sum() for p in permutations.long().unbind()]
    return torch.stack(values) if values else A.new_empty((0,))


define_op(
    "permuted_products",
    "(Tensor rows, int first, Tensor L, Tensor permutations) -> Tensor",
    default=_default,
    fake=lambda rows, first, L, permutations: L.new_empty(
        (permutations.shape[0],), dtype=torch.float64
    ),
)
define_op(
    "permuted_factor_products",
    "(Tensor A, Tensor B, Tensor permutations) -> Tensor",
    default=_default_factors,
    fake=lambda A, B, permutations: A.new_empty((permutations.shape[0],)),
)
define_op(
    "permuted_class_sums",
    "(Tensor rows, int first, Tensor labels) -> Tensor",
    default=_default_classes,
    fake=lambda rows, first, labels: rows.new_empty((labels.shape[0],), dtype=torch.float64),
)
