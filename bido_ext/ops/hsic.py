# SPDX-License-Identifier: Apache-2.0
"""HSIC: tr(HKH HLH) / (n-1)^2, one pass over two symmetric Gram matrices.

K, L: [n, n]  ->  value: [], row sums of K and L: [n] float64 (kept for the backward)
d value / dK = (L - (l_i + l_j)/n + 1'L1/n^2) / (n-1)^2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._validate import check_choice
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, measure_pair
from bido_ext.ops.planned import planned_pair

ESTIMATORS = ("biased", "unbiased")


def hsic(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    estimator: str = "biased",
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Hilbert-Schmidt independence criterion of x and y.

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), never expanded to one-hot.
        kernel_x: Kernel of x; default Gaussian(sigma=5.0).
        kernel_y: Kernel of y; default Gaussian(sigma=5.0) for features, Linear() for labels.
        estimator: "biased": tr(HKH HLH) / (n-1)^2 (Gretton et al. 2005), n >= 2;
            "unbiased": Song et al. 2012, equation 5, n >= 4.
        num_classes: Number of classes of integer labels; checked, and needed by a Gaussian on labels.
        workspace_bytes: Bound on the memory beyond inputs and gradients. Where the n x n matrices do
            not fit, tiles are streamed (biased estimator only). Default: see :func:`bido_ext.plan`.

    Returns:
        A 0-d tensor, float32 or, where x and y are float64, float64. Differentiable once.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices or labels do not fit, n is too small, or the features hold NaN
            or Inf (checked on the CPU).
        MemoryError: No regime fits into workspace_bytes.

    Example:
        >>> bx.hsic(torch.randn(64, 512), torch.randint(0, 5, (64,)))
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    if unbiased:
        if workspace_bytes is not None:
            raise ValueError(
                'workspace_bytes needs estimator="biased": the unbiased one cannot stream.'
            )
        return measure_pair(HsicMeasure(True), x, y, kernel_x, kernel_y, num_classes, 4)
    return planned_pair(HsicMeasure(), x, y, kernel_x, kernel_y, num_classes, workspace_bytes)


class HsicMeasure(Measure):
    """HSIC of two variables given as Gram matrices up to centering."""

    name = "hsic"

    def __init__(self, unbiased: bool = False) -> None:
        self.unbiased = unbiased

    def prepare(self, gram: Tensor) -> Tensor:
        return gram

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        return gram_hsic(a, b, self.unbiased)

    def from_streaming(self, values: Tensor) -> Tensor:
        return values[0]


def gram_hsic(K: Tensor, L: Tensor, unbiased: bool = False) -> Tensor:
    """HSIC of two symmetric Gram matrices (n, n) of one dtype; see :func:`hsic`."""
    return torch.ops.bido_ext.hsic(K, L, unbiased)[0]


def _row_sums(K: Tensor, unbiased: bool) -> Tensor:
    sums = K.sum(1, dtype=torch.float64)
    return sums - K.diagonal().double() if unbiased else sums


def _default(K: Tensor, L: Tensor, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(K.device.type, enabled=False):
        value = reference.hsic(K.double(), L.double(), unbiased).to(K.dtype)
    return value, _row_sums(K, unbiased), _row_sums(L, unbiased)


def _default_backward(grad: Tensor, other: Tensor, other_sums: Tensor, unbiased: bool) -> Tensor:
    n = other.shape[0]
    sums = other_sums.to(other.dtype)
    pairs, total = sums[:, None] + sums[None, :], sums.sum()
    if not unbiased:
        return grad * (other - pairs / n + total / n**2) / (n - 1) ** 2
    full = other - pairs / (n - 2) + total / ((n - 1) * (n - 2))
    return grad * (full - torch.diag(full.diagonal())) / (n * (n - 3))


define_op(
    "hsic",
    "(Tensor K, Tensor L, bool unbiased) -> (Tensor, Tensor, Tensor)",
    default=_default,
    fake=lambda K, L, unbiased: (
        K.new_empty(()),
        K.new_empty((K.shape[0],), dtype=torch.float64),
        K.new_empty((K.shape[0],), dtype=torch.float64),
    ),
)
define_op(
    "hsic_backward",
    "(Tensor grad, Tensor other, Tensor other_sums, bool unbiased) -> Tensor",
    default=_default_backward,
    fake=lambda grad, other, other_sums, unbiased: other.new_empty(other.shape),
)
refuse_double_backward("hsic_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    K, L, ctx.unbiased = inputs
    _, k_sums, l_sums = output
    needs_k, needs_l = ctx.needs_input_grad[:2]
    ctx.mark_non_differentiable(k_sums, l_sums)
    # The gradient of one side needs the other matrix only.
    ctx.save_for_backward(*((L, l_sums) if needs_k else ()), *((K, k_sums) if needs_l else ()))


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    saved = list(ctx.saved_tensors)
    grads: list[Tensor | None] = []
    for needed in ctx.needs_input_grad[:2]:
        if not needed:
            grads.append(None)
            continue
        other, sums, *saved = saved
        grads.append(torch.ops.bido_ext.hsic_backward(grad, other, sums, ctx.unbiased))
    return grads[0], grads[1], None


define_derivative("hsic", _backward, _setup_context)
