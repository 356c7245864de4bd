# SPDX-License-Identifier: Apache-2.0
"""nHSIC: tr(S_K S_L) with S = Kc (Kc + eps n I)^-1, Kc = H K H (what BiDO-HSIC trains with).

    K: [n, n]  ->  S = I - c P and P = (Kc + c I)^-1: [n, n],  c = eps n;   grad_K = c P grad_S P

The symmetric form equals the one-sided K H (K H + c I)^-1 of the published code exactly, but
Kc + c I is positive definite: a Cholesky factorisation replaces the general inverse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._validate import check_positive
from bido_ext.ops.kernels import Kernel, same_class
from bido_ext.ops.measure import FLOAT64_UP_TO, Measure, linalg_dtype_for, measure_pair


def nhsic(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    eps: float = 1e-5,
    num_classes: int | None = None,
    linalg_dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalised HSIC (trace of the normalised cross-covariance operator) of x and y.

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), never expanded to one-hot.
        kernel_x: Kernel of x; default Gaussian(sigma=5.0).
        kernel_y: Kernel of y; default Gaussian(sigma=5.0) for features, Linear() for labels.
        eps: Ridge relative to n; the published BiDO uses 1e-5. It is part of the objective.
        num_classes: Number of classes of integer labels; checked, and needed by a Gaussian on labels.
        linalg_dtype: torch.float32 or torch.float64 for centering, Cholesky and products; default
            float64 up to n = 1024, else the dtype of the Gram matrix.

    Returns:
        A 0-d tensor in [0, n - 1], float32 or, for float64 features, float64. Differentiable once.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels, eps or linalg_dtype do not fit, or the features hold NaN
            or Inf (checked on the CPU).
    """
    measure = NhsicMeasure(check_positive(eps, "eps"), linalg_dtype)
    return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes)


class NhsicMeasure(Measure):
    """nHSIC of two variables given by their factors S."""

    def __init__(self, eps: float = 1e-5, linalg_dtype: torch.dtype | None = None) -> None:
        self.eps = eps
        self.linalg_dtype = linalg_dtype

    def prepare(self, gram: Tensor) -> Tensor:
        dtype = linalg_dtype_for(gram, self.linalg_dtype)
        return torch.ops.bido_ext.nhsic_factor(gram.to(dtype), self.eps)[0]

    def prepare_labels(self, labels: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        if labels.shape[0] <= FLOAT64_UP_TO or self.linalg_dtype == torch.float64:
            dtype = torch.float64
        return label_factor(labels, self.eps * labels.shape[0] / scale, dtype)

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum()


def label_factor(labels: Tensor, c: float, dtype: torch.dtype) -> Tensor:
    """S of Kc = H [y_i = y_j] H in closed form: no factorisation.

    With Y one-hot and Yc = H Y, S = Yc (Yc'Yc + c I)^-1 Yc' and Yc'Yc = diag(n_c) - n_c n_c'/n is
    diagonal plus rank one. By Sherman-Morrison, with g_i = c / (n_{y_i} + c) for sample i:
    S = H ([y_i = y_j] / (n_{y_i} + c)) H + (g - mean g)(g - mean g)' / (n mean g).
    """
    same = same_class(labels, torch.float64)
    class_sizes = same.sum(1)  # of each sample's own class
    g = c / (class_sizes + c)
    centered = torch.ops.bido_ext.double_center(same / (class_sizes + c))
    offset = g - g.mean()
    return (centered + torch.outer(offset, offset) / g.sum()).to(dtype)


def _factor(K: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    n = K.shape[0]
    c = eps * n
    Kc = torch.ops.bido_ext.double_center(K)
    ridge = Kc.clone()
    ridge.diagonal().add_(c)
    with torch.autocast(K.device.type, enabled=False):
        # _ex: no host sync for an error check; a failed factorisation turns into NaN.
        cholesky, info = torch.linalg.cholesky_ex(ridge)
        cholesky.masked_fill_(info != 0, float("nan"))
        P = torch.cholesky_inverse(cholesky).contiguous()
        if K.dtype == torch.float64:
            S = P * -c
            S.diagonal().add_(1)
        else:
            # I - c P cancels in float32; the solve form does not.
            S = torch.cholesky_solve(Kc, cholesky)
            S = (S + S.T) / 2
    return S.contiguous(), P


def _factor_backward(grad: Tensor, P: Tensor, eps: float) -> Tensor:
    with torch.autocast(P.device.type, enabled=False):
        G = (P @ grad @ P) * (eps * P.shape[0])
    # Centered in exact arithmetic; in float32 the round-off of 1/c-sized entries is not.
    return torch.ops.bido_ext.double_center((G + G.T) / 2)


define_op(
    "nhsic_factor",
    "(Tensor K, float eps) -> (Tensor, Tensor)",
    default=_factor,
    fake=lambda K, eps: (K.new_empty(K.shape), K.new_empty(K.shape)),
)
define_op(
    "nhsic_factor_backward",
    "(Tensor grad, Tensor P, float eps) -> Tensor",
    default=_factor_backward,
    fake=lambda grad, P, eps: P.new_empty(P.shape),
)
refuse_double_backward("nhsic_factor_backward")


def _setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    _, P = output
    ctx.eps = inputs[1]
    ctx.mark_non_differentiable(P)
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(P)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None]:
    if grad is None:
        return None, None
    (P,) = ctx.saved_tensors
    return torch.ops.bido_ext.nhsic_factor_backward(grad, P, ctx.eps), None


define_derivative("nhsic_factor", _backward, _setup_context)
