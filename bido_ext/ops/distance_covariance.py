# SPDX-License-Identifier: Apache-2.0
"""Distance covariance and distance correlation: HSIC with the kernel -|a - b|^beta in float64, a composition of
the hsic op; of two columns without a gradient, of distance_products.

variables: two times [n, d] or labels [n]  ->  values: [pairs] float64
    biased: V = sum_ij A_ij B_ij / n^2 of double-centered distances; unbiased: U-centered, over n (n - 3)
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._one_column import hsic_of_columns
from bido_ext.ops._validate import check_choice, check_positive
from bido_ext.ops.cka import cka_of_pairs
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.hsic import ESTIMATORS, hsic_of_pairs
from bido_ext.ops.kernels import Energy
from bido_ext.ops.measure import Measure, guarded_sqrt, measure_pair


def distance_covariance(
    x: Tensor,
    y: Tensor,
    estimator: str = "biased",
    beta: float = 1.0,
    num_classes: int | None = None,
) -> Tensor:
    """Distance covariance of x and y: a measure of dependence that needs no bandwidth.

    Source: Szekely, Rizzo and Bakirov 2007, definition 4.

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which stand for one-hot vectors.
        estimator: "biased": sqrt(sum_ij A_ij B_ij) / n with double-centered distances A and B; not squared;
            n >= 2. "unbiased": the *squared* distance covariance of Szekely and Rizzo (2014), equation 3.4;
            it may be negative; n >= 4.
        beta: Power of the distances, 0 < beta < 2.
        num_classes: Number of classes of integer labels; checked.

    Returns:
        A 0-d tensor: float64 if x or y is float64, else float32. It is computed in float64. Differentiable
        once. The gradient of a distance is 0 where samples coincide, and the gradient of the root is 0 where
        the root is 0. On the CPU, d = e = 1 with beta = 1 and no gradient takes O(n log n) operations.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels or beta do not fit, n is too small, or the features hold NaN or
            Inf (checked on the CPU).

    Example:
        >>> bx.distance_covariance(torch.randn(100, 3), torch.randn(100, 2))
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    kernel = Energy(check_beta(beta))
    return measure_pair(
        DistanceCovariance(unbiased, kernel.beta), x, y, kernel, kernel, num_classes
    )


def distance_correlation(
    x: Tensor,
    y: Tensor,
    estimator: str = "biased",
    beta: float = 1.0,
    num_classes: int | None = None,
) -> Tensor:
    """Distance correlation of x and y: distance covariance, normalized to lie between 0 and 1.

    Source: Szekely, Rizzo and Bakirov 2007, definition 5.

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which stand for one-hot vectors.
        estimator: "biased": dCov(x, y) / sqrt(dCov(x, x) dCov(y, y)), in [0, 1]; n >= 2. "unbiased": the
            bias-corrected *squared* distance correlation (Szekely and Rizzo 2014); n >= 4.
        beta: Power of the distances, 0 < beta < 2.
        num_classes: Number of classes of integer labels; checked.

    Returns:
        A 0-d tensor: float64 if x or y is float64, else float32. If a variable is constant, value and
        gradient are 0. Differentiable once, as :func:`distance_covariance`.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: As for :func:`distance_covariance`.

    Example:
        >>> bx.distance_correlation(torch.randn(100, 3), torch.randn(100, 2))
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    kernel = Energy(check_beta(beta))
    return measure_pair(
        DistanceCorrelation(unbiased, kernel.beta), x, y, kernel, kernel, num_classes
    )


def check_beta(beta: object) -> float:
    """A number between 0 and 2, where distance covariance characterises independence."""
    value = check_positive(beta, "beta")
    if value >= 2:
        raise ValueError(f"beta must be between 0 and 2, got {value}.")
    return value


class DistanceCovariance(Measure):
    """dCov, or the unbiased estimate of its square."""

    name = "distance_covariance"

    def __init__(self, unbiased: bool, beta: float) -> None:
        self.unbiased, self.beta = unbiased, beta
        self.minimum_rows = 4 if unbiased else 2

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        values = self.products(group, pairs)
        return values if self.unbiased else guarded_sqrt(values) * ((group.n - 1) / group.n)

    def products(self, group: Group, pairs: Pairs) -> Tensor:
        """HSIC of each pair, in float64."""
        if self.beta != 1 or not are_columns(group):
            return hsic_of_pairs(in_float64(group), pairs, self.unbiased)
        return hsic_of_columns(group.variables, pairs, self.unbiased)


class DistanceCorrelation(DistanceCovariance):
    """dCor, or the bias-corrected estimate of its square."""

    name = "distance_correlation"

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        values = cka_of_pairs(pairs, lambda every: self.products(group, every), group)
        values = torch.where(values.isfinite(), values.clamp(-1, 1), values)  # rounding beyond
        return values if self.unbiased else guarded_sqrt(values)


def are_columns(group: Group) -> bool:
    """Whether all variables are features of one column, and want no gradient."""
    return not group.wanted() and all(
        v.is_floating_point() and v.shape[1:] == (1,) for v in group.variables
    )


def in_float64(group: Group) -> Group:
    """The same group with its features in float64."""
    wide = [v.double() if v.is_floating_point() else v for v in group.variables]
    return Group(wide, group.parameters, group.kinds)
