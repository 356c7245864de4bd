# SPDX-License-Identifier: Apache-2.0
"""The Gram matrices up to centering of a group of variables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.reference.gaussian_gram import (
    gaussian_gram,
    gaussian_gram_backward,
    squared_distances,
)

#: What a variable of a group is (csrc/common/kernel_tile.h has the same numbers).
GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS, GRAM = range(5)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays; float32, bfloat16 and float16 accumulate and return float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def group_dtype(variables: Sequence[Tensor], kinds: Sequence[int]) -> torch.dtype:
    """The dtype of the Gram matrices of a group."""
    for v, kind in zip(variables, kinds, strict=True):
        if kind != LABELS:
            return accumulation_dtype(v.dtype)
    return torch.float32


def gram_up_to_centering(x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype) -> Tensor:
    """The matrix (n, n) of one variable with the HKH of its kernel's Gram matrix; differentiable."""
    if kind == LABELS:
        return (x[:, None] == x[None, :]).to(dtype) * parameter.to(dtype)
    x = x.to(dtype)
    if kind == GRAM:
        return x
    if kind == GAUSSIAN:
        return gaussian_gram(x, parameter.to(dtype), minus_one=True)
    if kind == LINEAR:
        x = x - x.mean(0, keepdim=True)
        return x @ x.T
    return torch.expm1(-0.5 * torch.log1p(squared_distances(x)))


def gram_backward(
    grad: Tensor, E: Tensor, x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype
) -> Tensor:
    """Gradient of a variable from that of its Gram matrix up to centering E, without autograd."""
    grad, E, gamma = grad.to(dtype), E.to(dtype), parameter.to(dtype)
    if kind == GRAM:
        return grad
    x = x.to(dtype)
    if kind == GAUSSIAN:
        return gaussian_gram_backward(grad, E + 1, x, gamma)
    x = x - x.mean(0, keepdim=True)
    G = grad + grad.T
    if kind == LINEAR:
        grad_x = G @ x
        return grad_x - grad_x.mean(0, keepdim=True)
    W = G * (E + 1) ** 3  # dK / dD = -K^3 / 2
    W = W - torch.diag(W.diagonal())
    return W @ x - W.sum(1, keepdim=True) * x


def gram_stack(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int]
) -> list[Tensor]:
    """One matrix (n, n) per variable: K - 1, x x', [y_i = y_j] times a scale, or the matrix given."""
    dtype = group_dtype(variables, kinds)
    with torch.autocast(variables[0].device.type, enabled=False):
        return [
            gram_up_to_centering(v, parameters[i], kind, dtype)
            for i, (v, kind) in enumerate(zip(variables, kinds, strict=True))
        ]
