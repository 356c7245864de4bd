# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrix, K_ij = exp(-gamma |x_i - x_j|^2)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Of float64: nearer pairs, in units of their norms, lose digits in |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>.
NEAR = 1e-6


def squared_distances(x: Tensor) -> Tensor:
    """D_ij = |x_i - x_j|^2 of the rows of x (n, d), with an exact zero diagonal."""
    x = x - x.mean(0, keepdim=True)  # D does not change, its digits do
    inner = x @ x.T
    norms = inner.diagonal()
    D = (norms[:, None] + norms[None, :] - 2 * inner).clamp_min(0)
    if _may_look(x):
        near = torch.triu(NEAR * (norms[:, None] + norms[None, :]) > D, 1).nonzero()
        for some in near.split(max(1, 2**22 // x.shape[1])):
            i, j = some.unbind(1)
            D[i, j] = D[j, i] = (x[i] - x[j]).square().sum(1)
    # Adding D_ii - D_ii keeps the NaN of bad features, which a plain fill would hide.
    return D - torch.diag(D.diagonal())


def distances_of_differences(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of the rows of x to those of y: no product, whose round-off near rows would show."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _may_look(x: Tensor) -> bool:
    """float64 values at hand, without a graph: near distances are made again from differences."""
    return (
        x.dtype == torch.float64
        and x.device.type == "cpu"
        and not x.requires_grad
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


def gaussian_gram(x: Tensor, gamma: Tensor | float, minus_one: bool = False) -> Tensor:
    """K = exp(-gamma D), or K - 1 = expm1(-gamma D); (n, d) -> (n, n)."""
    D = squared_distances(x)
    return torch.expm1(-gamma * D) if minus_one else torch.exp(-gamma * D)


def gaussian_gram_backward(grad: Tensor, K: Tensor, x: Tensor, gamma: Tensor | float) -> Tensor:
    """-4 gamma (diag(W 1) - W) x with W = sym(grad) o K; K is the Gram matrix itself."""
    x = x - x.mean(0, keepdim=True)
    W = (grad + grad.T) / 2 * K
    W = W - torch.diag(W.diagonal())  # W_ii cancels; its round-off would drown small weights
    return -4 * gamma * (W.sum(1, keepdim=True) * x - W @ x)
