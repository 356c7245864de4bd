# SPDX-License-Identifier: Apache-2.0
"""Distance covariance and distance correlation: HSIC with the kernel -|a - b|^beta, a composition of the
distance_gram and hsic ops.

variables: two times [n, d] or labels [n]  ->  values: [pairs] float64
    biased: V = sum_ij A_ij B_ij / n^2 of double-centered distances; unbiased: U-centered, over n (n - 3)
"""

from __future__ import annotations

from torch import Tensor

from bido_ext.ops._validate import check_choice, check_positive
from bido_ext.ops.cka import cka_of_pairs
from bido_ext.ops.distances import DistanceKernel
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.hsic import ESTIMATORS, hsic_of_pairs
from bido_ext.ops.measure import Measure, guarded_sqrt, measure_pair


def distance_covariance(
    x: Tensor,
    y: Tensor,
    estimator: str = "biased",
    beta: float = 1.0,
    num_classes: int | None = None,
) -> Tensor:
    """Distance covariance of x and y (Szekely, Rizzo and Bakirov 2007, definition 4).

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which stand for one-hot vectors.
        estimator: "biased": dCov = sqrt(sum_ij A_ij B_ij) / n of double-centered distances A and B, not
            squared, n >= 2; "unbiased": the *squared* distance covariance of Szekely and Rizzo (2014),
            equation 3.4, which may be negative, n >= 4.
        beta: Power of the distances, 0 < beta < 2.
        num_classes: Number of classes of integer labels; checked.

    Returns:
        A 0-d tensor, float32 or, where x and y are float64, float64; computed in float64. Differentiable
        once; the gradient of a distance is 0 where samples coincide, that of the root where it is 0.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels or beta do not fit, n is too small, or the features hold NaN or
            Inf (checked on the CPU).

    Example:
        >>> bx.distance_covariance(torch.randn(100, 3), torch.randn(100, 2))
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    kernel = DistanceKernel(check_beta(beta))
    return measure_pair(DistanceCovariance(unbiased), x, y, kernel, kernel, num_classes)


def distance_correlation(
    x: Tensor,
    y: Tensor,
    estimator: str = "biased",
    beta: float = 1.0,
    num_classes: int | None = None,
) -> Tensor:
    """Distance correlation of x and y (Szekely, Rizzo and Bakirov 2007, definition 5).

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which stand for one-hot vectors.
        estimator: "biased": dCov(x, y) / sqrt(dCov(x, x) dCov(y, y)), in [0, 1], n >= 2; "unbiased": the
            bias-corrected *squared* distance correlation (Szekely and Rizzo 2014), n >= 4.
        beta: Power of the distances, 0 < beta < 2.
        num_classes: Number of classes of integer labels; checked.

    Returns:
        A 0-d tensor, float32 or, where x and y are float64, float64; 0 with gradient 0 where a variable is
        constant. Differentiable once, as :func:`distance_covariance`.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: As for :func:`distance_covariance`.
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    kernel = DistanceKernel(check_beta(beta))
    return measure_pair(DistanceCorrelation(unbiased), x, y, kernel, kernel, num_classes)


def check_beta(beta: object) -> float:
    """A number between 0 and 2, where distance covariance characterises independence."""
    value = check_positive(beta, "beta")
    if value >= 2:
        raise ValueError(f"beta must be between 0 and 2, got {value}.")
    return value


class DistanceCovariance(Measure):
    """dCov, or the unbiased estimate of its square."""

    name = "distance_covariance"

    def __init__(self, unbiased: bool) -> None:
        self.unbiased = unbiased
        self.minimum_rows = 4 if unbiased else 2

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        values = hsic_of_pairs(group, pairs, self.unbiased)
        return values if self.unbiased else guarded_sqrt(values) * ((group.n - 1) / group.n)


class DistanceCorrelation(DistanceCovariance):
    """dCor, or the bias-corrected estimate of its square."""

    name = "distance_correlation"

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        values = cka_of_pairs(pairs, lambda every: hsic_of_pairs(group, every, self.unbiased))
        return values if self.unbiased else guarded_sqrt(values)
