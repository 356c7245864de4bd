# SPDX-License-Identifier: Apache-2.0
"""The Gram matrices up to centering of a group of variables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.reference.gaussian_gram import distances_of_differences, squared_distances
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    GRAM,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    NOT_SMOOTH,
    RATIONAL_QUADRATIC,
    entry_of_distance,
    kernel_of_distance,
    scalar,
    weight_of_entry,
    weight_of_kernel,
)
from bido_ext.reference.resolution import nan_where_noise

__all__ = [
    "ENERGY",
    "GAUSSIAN",
    "GRAM",
    "INVERSE_MULTIQUADRIC",
    "LABELS",
    "LAPLACIAN",
    "LINEAR",
    "RATIONAL_QUADRATIC",
]

#: Beside 1, float64 has lost more digits of a smaller K than a float32 gradient shows.
SMALLEST_HELD_K = 1e-9


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
        return (x[:, None] == x[None, :]).to(dtype) * scalar(parameter).to(dtype)
    x = x.to(dtype)
    if kind == GRAM:
        return x
    if kind == LINEAR:
        x = x - x.mean(0, keepdim=True)
        return x @ x.T
    if kind in NOT_SMOOTH and dtype != torch.float64 and x.device.type != "cpu":
        x = x - x.mean(0, keepdim=True)  # no second try in float64 there
        return entry_of_distance(distances_of_differences(x, x), parameter.to(dtype), kind)
    return entry_of_distance(squared_distances(x), parameter.to(dtype), kind)


def gram_backward(
    grad: Tensor, E: Tensor, x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype
) -> Tensor:
    """Gradient of a variable from that of its Gram matrix up to centering E, without autograd."""
    grad, E, parameter = grad.to(dtype), E.to(dtype), parameter.to(dtype)
    if kind == GRAM:
        return grad
    x = x.to(dtype)
    x = x - x.mean(0, keepdim=True)
    if kind == LINEAR:
        A = grad + grad.T
        grad_x = A @ x
        grad_x = grad_x - grad_x.mean(0, keepdim=True)
        return nan_where_noise(grad_x, A, E, x, parameter, kind)
    A = _weights((grad + grad.T) / 2, E, x, parameter, kind)
    A = A - torch.diag(A.diagonal())  # A_ii cancels; its round-off would drown small weights
    if dtype == torch.float64 and x.device.type == "cpu":
        # There near distances are made from differences: entries of 0 are of equal rows, which cancel, too.
        A = torch.where(E == 0, 0.0, A)
    grad_x = A @ x - A.sum(1, keepdim=True) * x
    return nan_where_noise(grad_x, A, E, x, parameter, kind)


def _weights(g: Tensor, E: Tensor, x: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """A of entries and their gradients; on the CPU, in float64, from K itself where K - 1 has lost it."""
    A = weight_of_entry(g, E, parameter, kind)
    if E.dtype != torch.float64 or E.device.type != "cpu" or kind == ENERGY:
        return A
    if not bool((E < SMALLEST_HELD_K - 1).any()):
        return A
    K = kernel_of_distance(squared_distances(x), parameter, kind)
    return torch.where(E < -0.5, weight_of_kernel(g, K, parameter, kind), A)


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
