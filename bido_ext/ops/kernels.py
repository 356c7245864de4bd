# SPDX-License-Identifier: Apache-2.0
"""The kernels of the dependence measures: Gaussian, Linear, InverseMultiquadric.

A kernel turns one variable into a *Gram matrix up to centering*: any matrix with the same H K H,
chosen for its digits (K - 1 instead of K for the Gaussian). Integer labels never become one-hot: on
one-hot vectors every kernel here takes two values, so its Gram matrix up to centering is the
same-class indicator [y_i = y_j] times a number (``label_scale``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.ops._validate import check_bool
from bido_ext.ops.bandwidth import Sigma, check_sigma, gamma_of
from bido_ext.reference.gaussian_gram import squared_distances


class Kernel:
    """A positive definite kernel; see the subclasses."""

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        """(n, d) features -> (n, n), float32 or float64, with the HKH of the kernel's Gram matrix."""
        raise NotImplementedError

    def label_scale(self, num_classes: int | None) -> float:
        """k(e_a, e_a) - k(e_a, e_b) of two one-hot vectors e_a, e_b."""
        raise TypeError(
            f"kernel_y is a {type(self).__name__} without label_scale(num_classes), which integer labels need."
        )


@dataclass(frozen=True)
class Gaussian(Kernel):
    """k(a, b) = exp(-|a - b|^2 / (2 sigma^2 [d])).

    Args:
        sigma: Bandwidth: a positive number, a 0-d tensor, or "median".
        scale_by_dim: Divide by the number of columns d as well (BiDO, Peng et al. 2022).
    """

    sigma: Sigma = 5.0
    scale_by_dim: bool = True

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_bool(self.scale_by_dim, "scale_by_dim")

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        gamma = gamma_of(self.sigma, x.detach(), self.scale_by_dim)
        return torch.ops.bido_ext.gaussian_gram(x, gamma, True)

    def label_scale(self, num_classes: int | None) -> float:
        if isinstance(self.sigma, (str, Tensor)):
            raise ValueError(
                "Gaussian on integer labels needs a number as sigma; "
                f"got {self.sigma if isinstance(self.sigma, str) else 'a tensor'}."
            )
        if self.scale_by_dim and num_classes is None:
            raise ValueError(
                "Gaussian(scale_by_dim=True) on integer labels needs num_classes: the bandwidth "
                "is scaled by the length of the one-hot vectors."
            )
        d = num_classes if self.scale_by_dim and num_classes is not None else 1
        return -math.expm1(-2 / (2 * float(self.sigma) ** 2 * d))


@dataclass(frozen=True)
class Linear(Kernel):
    """k(a, b) = <a, b>."""

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        x = _at_least_float32(x)
        x = x - x.mean(0, keepdim=True)
        return x @ x.T

    def label_scale(self, num_classes: int | None) -> float:
        return 1.0


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """k(a, b) = (1 + |a - b|^2)^(-1/2)."""

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        return torch.expm1(-0.5 * torch.log1p(squared_distances(_at_least_float32(x))))

    def label_scale(self, num_classes: int | None) -> float:
        return 1 - 3**-0.5


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def same_class(y: Tensor, dtype: torch.dtype) -> Tensor:
    """[y_i = y_j] as a matrix (n, n)."""
    return (y[:, None] == y[None, :]).to(dtype)
