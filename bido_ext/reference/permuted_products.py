# SPDX-License-Identifier: Apache-2.0
"""sum_ij K_ij L_p(i)p(j) for many permutations p of the samples."""

from __future__ import annotations

import torch
from torch import Tensor


def permuted_products(K: Tensor, L: Tensor, permutations: Tensor) -> Tensor:
    """tr(K P L P') of symmetric K and L (n, n) for each row p of permutations (B, n); [B]."""
    return torch.stack([(K * L[p][:, p]).sum() for p in permutations.long()])


def permuted_factor_products(A: Tensor, B: Tensor, permutations: Tensor) -> Tensor:
    """The same for K = A A' and L = B B': |A' B[p]|^2 of A (n, r) and B (n, s); [B]."""
    return torch.stack([(A.T @ B[p]).square().sum() for p in permutations.long()])


def permuted_class_sums(K: Tensor, labels: Tensor) -> Tensor:
    """The same for L_ij = [y_i = y_j], from rows of permuted labels y_p(i), (B, n); [B]."""
    return torch.stack([(K * (y[:, None] == y)).sum() for y in labels])
