# SPDX-License-Identifier: Apache-2.0
"""The kernels of the dependence measures.

A kernel turns one variable into a *Gram matrix up to centering*: any matrix with the same H K H,
chosen for its digits (K - 1 instead of K for the Gaussian). Integer labels never become one-hot: on
one-hot vectors every kernel here takes two values, so its Gram matrix up to centering is the
same-class indicator [y_i = y_j] times a number (``label_scale``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bido_ext.ops._transforms import transforms_active, within_product
from bido_ext.ops._validate import check_bool, check_positive, integer_or_none
from bido_ext.ops.bandwidth import Sigma, check_sigma, constant_gamma, gamma_of
from bido_ext.ops.learnable_sigma import tie_sigma
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LAPLACIAN,
    LINEAR,
    RATIONAL_QUADRATIC,
)


class Kernel:
    """A positive definite kernel. Use one of the subclasses, or write your own.

    A kernel of your own has :meth:`gram_up_to_centering` and, for integer labels, :meth:`label_scale`.

    Attributes:
        kind: Number of a kernel that the ops compute themselves (bido_ext.reference.kernel_entries); None for
            a kernel whose Gram matrix is computed by :meth:`gram_up_to_centering`.
    """

    kind: ClassVar[int | None] = None

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        """(n, d) features -> (n, n), float32 or float64, with the HKH of the kernel's Gram matrix."""
        if self.kind is None:
            raise NotImplementedError
        packed = [
            p.double() if isinstance(p, Tensor) else x.new_full((), p, dtype=torch.float64)
            for p in self.parameters(x)
        ]
        row = torch.stack(packed)[None] if len(packed) > 1 else packed[0][None]
        return torch.ops.bido_ext.gram_stack([self.tied(x)], row, [self.kind])[0]

    def tied(self, x: Tensor, centre: Tensor | None = None) -> Tensor:
        """x, through whose gradient a bandwidth gets its own (learnable_sigma.py)."""
        return tie_sigma(x, getattr(self, "sigma", None), centre)

    def parameters(self, x: Tensor) -> tuple[float | Tensor, ...]:
        """Of a kernel with a kind, for features x: numbers, or 0-d float64 tensors on the device."""
        return (1.0,)

    def label_scale(self, num_classes: int | None) -> float:
        """k(e_a, e_a) - k(e_a, e_b) of two one-hot vectors e_a, e_b."""
        raise TypeError(
            f"kernel_y is a {type(self).__name__} without label_scale(num_classes), which integer labels need."
        )


@dataclass(frozen=True)
class Gaussian(Kernel):
    """k(a, b) = exp(-|a - b|^2 / (2 sigma^2 [d])).

    Args:
        sigma: Bandwidth: a positive number, a 0-d tensor (which may require a gradient), or "median" (the
            median distance, which is never scaled by the dimension).
        scale_by_dim: Also divide by the number of columns d, as BiDO does (Peng et al. 2022).

    Raises:
        TypeError, ValueError: sigma is not positive, or an argument has another type.
    """

    sigma: Sigma = 5.0
    scale_by_dim: bool = True
    kind = GAUSSIAN

    def __post_init__(self) -> None:
        keep_number(self, check_sigma(self.sigma))
        check_bool(self.scale_by_dim, "scale_by_dim")

    def parameters(self, x: Tensor) -> tuple[float | Tensor, ...]:
        return (gamma_for(self.sigma, x, self.scale_by_dim),)

    def label_scale(self, num_classes: int | None) -> float:
        sigma, d = one_hot_bandwidth(self, self.sigma, self.scale_by_dim, num_classes)
        return -math.expm1(-2 / (2 * sigma**2 * d))


@dataclass(frozen=True)
class Linear(Kernel):
    """k(a, b) = <a, b>, the inner product. Use it for one-hot labels, and for CKA of layers."""

    kind = LINEAR

    def label_scale(self, num_classes: int | None) -> float:
        return 1.0


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """k(a, b) = (1 + |a - b|^2)^(-1/2).

    It has no bandwidth; :class:`RationalQuadratic` with alpha=0.5 is the same kernel with one.
    """

    kind = INVERSE_MULTIQUADRIC

    def label_scale(self, num_classes: int | None) -> float:
        return 1 - 3**-0.5


@dataclass(frozen=True)
class Laplacian(Kernel):
    """k(a, b) = exp(-|a - b| / (sigma [sqrt d])), with the Euclidean norm.

    Args:
        sigma: Bandwidth: a positive number, a 0-d tensor, or "median" (the median distance).
        scale_by_dim: Scale it by the square root of the number of columns d.
    """

    sigma: Sigma = 5.0
    scale_by_dim: bool = True
    kind = LAPLACIAN

    def __post_init__(self) -> None:
        keep_number(self, check_sigma(self.sigma))
        check_bool(self.scale_by_dim, "scale_by_dim")

    def parameters(self, x: Tensor) -> tuple[float | Tensor, ...]:
        of_gaussian = gamma_for(self.sigma, x, self.scale_by_dim)  # 1 / (2 sigma^2 d)
        return ((2 * of_gaussian) ** 0.5,)

    def label_scale(self, num_classes: int | None) -> float:
        sigma, d = one_hot_bandwidth(self, self.sigma, self.scale_by_dim, num_classes)
        return -math.expm1(-((2 / d) ** 0.5) / sigma)


@dataclass(frozen=True)
class Energy(Kernel):
    """k(a, b) = -|a - b|^beta. HSIC with this kernel is the squared distance covariance, up to a factor.

    The kernel is conditionally positive definite; centering makes it positive definite (Sejdinovic et al.
    2013).

    Args:
        beta: Exponent, above 0 and at most 2.

    Raises:
        ValueError: beta is not in this range.
    """

    beta: float = 1.0
    kind = ENERGY

    def __post_init__(self) -> None:
        if check_positive(self.beta, "beta") > 2:
            raise ValueError(f"beta must be above 0 and at most 2, got {self.beta}.")

    def parameters(self, x: Tensor) -> tuple[float | Tensor, ...]:
        return (float(self.beta),)

    def label_scale(self, num_classes: int | None) -> float:
        return 2 ** (self.beta / 2)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RationalQuadratic(Kernel):
    """k(a, b) = (1 + |a - b|^2 / (2 alpha sigma^2 [d]))^(-alpha), a mixture of Gaussians of all bandwidths.

    Args:
        alpha: Positive; 0.5 gives the inverse multiquadric kernel with a bandwidth.
        sigma: Bandwidth: a positive number, a 0-d tensor, or "median".
        scale_by_dim: Also divide by the number of columns d.
    """

    alpha: float = 1.0
    sigma: Sigma = 5.0
    scale_by_dim: bool = True
    kind = RATIONAL_QUADRATIC

    def __post_init__(self) -> None:
        check_positive(self.alpha, "alpha")
        keep_number(self, check_sigma(self.sigma))
        check_bool(self.scale_by_dim, "scale_by_dim")

    def parameters(self, x: Tensor) -> tuple[float | Tensor, ...]:
        return gamma_for(self.sigma, x, self.scale_by_dim) / self.alpha, float(self.alpha)

    def label_scale(self, num_classes: int | None) -> float:
        sigma, d = one_hot_bandwidth(self, self.sigma, self.scale_by_dim, num_classes)
        return -math.expm1(-self.alpha * math.log1p(1 / (self.alpha * sigma**2 * d)))


@dataclass(frozen=True)
class Polynomial(Kernel):
    """k(a, b) = (<a, b> + c)^degree. PyTorch computes its Gram matrix, n x n, in float64.

    Args:
        degree: A positive integer.
        c: A number, 0 or more.

    Raises:
        ValueError: degree or c is not in this range.
    """

    degree: int = 2
    c: float = 1.0

    def __post_init__(self) -> None:
        degree = integer_or_none(self.degree)
        if degree is None or degree < 1:
            raise ValueError(f"degree must be a positive integer, got {self.degree!r}.")
        if self.c != 0:
            check_positive(self.c, "c")

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        # A plain number also where a compiled step takes the attribute for a symbol: PyTorch 2.11 cannot
        # differentiate a power whose exponent is one.
        degree = len(range(self.degree))
        wide = x.double()
        center = wide.mean(0).detach()
        a = wide - center
        s, p, q = center @ center + self.c, a @ center, a @ a.mT
        # (s + p_i + p_j + q_ij)^degree without the terms of i or j alone, which centering takes away: beside a
        # common offset they are nearly all of it, and would leave no digits.
        K = torch.zeros_like(q)
        base = s + (p[:, None] + p[None, :])
        for k in range(degree, 0, -1):
            K = q * (K + math.comb(degree, k) * base ** (degree - k))
        for i in range(1, degree):
            for j in range(1, degree - i + 1):
                count = math.comb(degree, i) * math.comb(degree - i, j)
                K = K + count * s ** (degree - i - j) * torch.outer(p**i, p**j)
        K = K - K.mean(0, keepdim=True)
        K = K - K.mean(1, keepdim=True)
        return K if x.dtype == torch.float64 else K.float()

    def label_scale(self, num_classes: int | None) -> float:
        return float((1 + self.c) ** self.degree - self.c**self.degree)


class Mixture(Kernel):
    """k(a, b) = a weighted sum of kernels, such as Gaussians with several bandwidths.

    The Gram matrices are computed one by one and added up, and once more in the backward. So memory holds
    one n x n matrix beside the sum.

    Args:
        kernels: A list of kernels, at least one.
        weights: A positive number for each kernel. Default: equal weights that sum to 1.

    Raises:
        TypeError: kernels is empty or holds something else.
        ValueError: weights are not positive, or not as many as kernels.
    """

    def __init__(self, kernels: Sequence[Kernel], weights: Sequence[float] | None = None) -> None:
        self.kernels = tuple(kernels) if isinstance(kernels, Iterable) else ()
        if not self.kernels or not all(isinstance(k, Kernel) for k in self.kernels):
            raise TypeError(
                "kernels must be a list of kernels such as Gaussian(2.0), at least one."
            )
        if isinstance(weights, Tensor):
            if weights.requires_grad:
                raise TypeError(
                    "weights must be numbers, got a tensor that requires a gradient, which it would not get: "
                    "give weights.detach()."
                )
            weights = weights.tolist()
        if weights is not None and not isinstance(weights, Iterable):
            raise TypeError(
                f"weights must be a list of a number per kernel, got {type(weights).__name__}."
            )
        given = [1 / len(self.kernels)] * len(self.kernels) if weights is None else list(weights)
        if len(given) != len(self.kernels):
            raise ValueError(
                f"weights must be one per kernel, got {len(given)} for {len(self.kernels)} kernels."
            )
        self.weights = tuple(check_positive(w, "each of weights") for w in given)

    def __repr__(self) -> str:
        return f"Mixture({list(self.kernels)}, weights={list(self.weights)})"

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        total = self.weights[0] * self._part(self.kernels[0], x)
        for w, k in zip(self.weights[1:], self.kernels[1:], strict=True):
            total = total.add_(self._part(k, x), alpha=w)
        return total

    @staticmethod
    def _part(kernel: Kernel, x: Tensor) -> Tensor:
        """Not kept for the backward, which makes it again: one matrix at a time instead of all."""
        # Transforms bear no hooks on what is saved.
        plain = torch.is_grad_enabled() and not (within_product() or transforms_active())
        if torch.compiler.is_compiling() or not plain:
            return kernel.gram_up_to_centering(x)
        made: Tensor = checkpoint(
            kernel.gram_up_to_centering, x, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def label_scale(self, num_classes: int | None) -> float:
        both = zip(self.weights, self.kernels, strict=True)
        return sum(w * k.label_scale(num_classes) for w, k in both)


def keep_number(kernel: Kernel, sigma: Sigma) -> None:
    """A bandwidth of numpy's float32 as a float: its square would be rounded."""
    if type(kernel.sigma) not in (int, float) and isinstance(sigma, float):  # type: ignore[attr-defined]
        object.__setattr__(kernel, "sigma", sigma)


def gamma_for(sigma: Sigma, x: Tensor, scale_by_dim: bool) -> float | Tensor:
    """1 / (2 sigma^2 [d]) for features x: a number where sigma is one, else a 0-d float64 tensor."""
    known = constant_gamma(sigma, x.shape[1], scale_by_dim)
    return gamma_of(sigma, x.detach(), scale_by_dim) if known is None else known


def one_hot_bandwidth(
    kernel: Kernel, sigma: Sigma, scale_by_dim: bool, num_classes: int | None
) -> tuple[float, int]:
    """sigma and d on one-hot vectors, or the reason why there are none."""
    name = type(kernel).__name__
    if isinstance(sigma, (str, Tensor)):
        raise ValueError(
            f"{name} on integer labels needs a number as sigma; "
            f"got {sigma if isinstance(sigma, str) else 'a tensor'}."
        )
    if scale_by_dim and num_classes is None:
        raise ValueError(
            f"{name}(scale_by_dim=True) on integer labels needs num_classes: the bandwidth "
            "is scaled by the length of the one-hot vectors."
        )
    return float(sigma), num_classes if scale_by_dim and num_classes is not None else 1


def same_class(y: Tensor, dtype: torch.dtype) -> Tensor:
    """[y_i = y_j] as a matrix (n, n)."""
    return (y[:, None] == y[None, :]).to(dtype)
