# SPDX-License-Identifier: Apache-2.0
"""Squared maximum mean discrepancy of two samples, a composition over the kernel's Gram matrix of both.

x: [n, d], y: [m, d]  ->  value: [] float64,  w'Kw with w = (1/n, ..., -1/m, ...); since w sums to 0, any Gram
matrix up to centering serves. Unbiased: without the terms of a sample with itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._full_precision import full_precision
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import check_choice, check_features
from bido_ext.ops._why import check_statistic
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.hsic import ESTIMATORS
from bido_ext.ops.kernels import Gaussian, Kernel
from bido_ext.ops.measure import check_kernel


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: Kernel | None = None,
    estimator: str = "biased",
    sigma: Sigma | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy (MMD): how far the distributions of two samples are apart.

    It is mean K_xx + mean K_yy - 2 mean K_xy (Gretton et al. 2012).

    Args:
        x: Sample (n, d), float64, float32, bfloat16 or float16.
        y: Sample (m, d); n and m may differ.
        kernel: Kernel. Default: Gaussian(sigma=5.0). The bandwidth "median" is that of x and y together.
        estimator: "biased": equation 5, squared; never negative, except for round-off. "unbiased":
            equation 3; n and m >= 2; may be negative.
        sigma: Short for kernel=Gaussian(sigma).

    Returns:
        A 0-d tensor: float64 if x or y is float64, else float32. It is computed in float64. Differentiable
        once.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype, or kernel is no kernel.
        ValueError: Shapes or devices do not fit, a sample is too small, kernel and sigma are both given, or
            the samples hold NaN or Inf (checked on the CPU).

    Example:
        >>> bx.mmd(torch.randn(100, 3), torch.randn(80, 3) + 1, sigma="median", estimator="unbiased")
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    check_kernel(kernel, "kernel")
    if sigma is not None:
        if kernel is not None:
            raise ValueError("kernel and sigma are both given: sigma is short for Gaussian(sigma).")
        kernel = Gaussian(sigma)
    kernel = kernel or Gaussian()
    if isinstance(x, Tensor) and isinstance(y, Tensor) and transforms_active(x, y):

        def of_plain(x: Tensor, y: Tensor) -> Tensor:
            return mmd(x, y, kernel, estimator)

        return through_transforms(of_plain, x, y)
    _check_samples(x, y, 2 if unbiased else 1)
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    n, m = x.shape[0], y.shape[0]
    with full_precision(x.device):
        # Of two samples that are nearly alike, the difference of three means is small beside each of them.
        K = kernel.gram_up_to_centering(torch.cat([x.double(), y.double()]))
        sums = [part.sum(dtype=torch.float64) for part in (K[:n, :n], K[n:, n:], K[:n, n:])]
        if unbiased:
            diagonal = K.diagonal()
            within = (sums[0] - diagonal[:n].sum()) / (n * (n - 1)) + (
                sums[1] - diagonal[n:].sum()
            ) / (m * (m - 1))
        else:
            within = sums[0] / n**2 + sums[1] / m**2
        value = within - 2 * sums[2] / (n * m)
    check_statistic("mmd", value, value.to(dtype), x=x, y=y)
    return value.to(dtype)


def _check_samples(x: Tensor, y: Tensor, minimum_rows: int) -> None:
    for sample, name in ((x, "x"), (y, "y")):
        check_features(sample, name)
        if sample.shape[0] < minimum_rows:
            raise ValueError(
                f"{name} has {sample.shape[0]} sample(s), the unbiased estimator needs at least "
                f"{minimum_rows}."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must have the same number of columns, got {x.shape[1]} and {y.shape[1]}."
        )
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move them to one device.")
