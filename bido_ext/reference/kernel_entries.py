# SPDX-License-Identifier: Apache-2.0
"""The kernels of the measures on one entry: from a squared distance D to the Gram entry up to centering, e(D),
and from an entry and its gradient g to the weight A of the feature gradient,

    grad_x = (A - diag(A 1)) x,   A_ij = -4 g_ij e'(D_ij)

A new kernel is one branch in each; csrc/common/kernel_tile.h has the same for the compiled kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: What a variable of a group is (csrc/common/kernel_tile.h has the same numbers); features come first.
(
    GAUSSIAN,
    LINEAR,
    INVERSE_MULTIQUADRIC,
    LAPLACIAN,
    ENERGY,
    RATIONAL_QUADRATIC,
    LABELS,
    GRAM,
) = range(8)
#: Not smooth at distance 0, where round-off of near distances weighs most.
NOT_SMOOTH = (LAPLACIAN, ENERGY)


def scalar(parameter: Tensor) -> Tensor:
    """The first parameter of a variable, 0-d: gamma of most kernels, beta of Energy, the scale of labels."""
    return parameter if parameter.dim() == 0 else parameter[0]


def entry_of_distance(D: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """e(D) of squared distances: K - 1, or -D^(beta/2) of Energy.

    Args:
        parameter: 0-d, or (parameters,) of the variable, in the dtype of D.
    """
    gamma = scalar(parameter)
    if kind == GAUSSIAN:
        return torch.expm1(-gamma * D)
    if kind == INVERSE_MULTIQUADRIC:
        return torch.expm1(-0.5 * torch.log1p(D))
    if kind == LAPLACIAN:
        return torch.expm1(-gamma * _root(D))
    if kind == ENERGY:
        return -(_root(D) ** gamma)
    return torch.expm1(-parameter[1] * torch.log1p(gamma * D))


def kernel_of_distance(D: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """K itself of squared distances, whose small values K - 1 does not hold; not of Energy."""
    gamma = scalar(parameter)
    if kind == GAUSSIAN:
        return torch.exp(-gamma * D)
    if kind == INVERSE_MULTIQUADRIC:
        return torch.rsqrt(1 + D)
    if kind == LAPLACIAN:
        return torch.exp(-gamma * _root(D))
    return torch.exp(-parameter[1] * torch.log1p(gamma * D))


def weight_of_kernel(g: Tensor, K: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """A of kernels K below 1 and the gradients g; not of Energy."""
    gamma = scalar(parameter)
    if kind == GAUSSIAN:
        return 4 * gamma * g * K
    if kind == INVERSE_MULTIQUADRIC:
        return 2 * g * K**3
    if kind == LAPLACIAN:
        return torch.where(K > 0, -2 * gamma**2 * g * K / torch.where(K > 0, K, 0.5).log(), 0 * g)
    alpha = parameter[1]
    return 4 * alpha * gamma * g * K ** (1 + 1 / alpha)


def weight_of_entry(g: Tensor, E: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """A of entries E and their gradients g; 0 where a kernel that is not smooth is at distance 0."""
    gamma = scalar(parameter)
    if kind == ENERGY:
        apart = E < 0
        return torch.where(
            apart, 2 * gamma * g * torch.where(apart, -E, 1.0) ** (1 - 2 / gamma), 0 * g
        )
    if kind == LAPLACIAN:
        apart = E < 0
        return torch.where(
            apart, -2 * gamma**2 * g * (E + 1) / torch.log1p(torch.where(apart, E, -0.5)), 0 * g
        )
    return weight_of_kernel(g, E + 1, parameter, kind)


def _root(D: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    apart = D > 0
    return torch.where(apart, torch.where(apart, D, 1.0).sqrt(), 0 * D)
