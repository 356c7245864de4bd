# SPDX-License-Identifier: Apache-2.0
"""COCO: sqrt(|HKH HLH|) / n, a composition of double_center and torch.linalg.

Kc, Lc: [n, n]  ->  value: [];   M = Kc Lc
spectral: d value = u' dKc (Lc v) / (2 n sqrt(s)) with the top singular triple (u, s, v) of M
fro:      d value = <M Lc, dKc> |M|_F^(-3/2) / (2 n)
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._validate import check_choice
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, linalg_dtype_for, measure_pair

NORMS = ("spectral", "fro")


def coco(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    norm: str = "spectral",
    num_classes: int | None = None,
    linalg_dtype: torch.dtype | None = None,
) -> Tensor:
    """Constrained covariance of x and y.

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), never expanded to one-hot.
        kernel_x: Kernel of x; default Gaussian(sigma=5.0).
        kernel_y: Kernel of y; default Gaussian(sigma=5.0) for features, Linear() for labels.
        norm: "spectral", the largest singular value (Gretton et al. 2005), or "fro", the Frobenius
            norm of the published BiDO code, an upper bound of it.
        num_classes: Number of classes of integer labels; checked, and needed by a Gaussian on labels.
        linalg_dtype: torch.float32 or torch.float64 for the n x n algebra; default float64 up to
            n = 1024, else the dtype of the Gram matrix.

    Returns:
        A 0-d tensor, float32 or, for float64 features, float64. Where HKH HLH = 0 (constant
        features, one class) the value is 0 and its gradient is defined as 0.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels, norm or linalg_dtype do not fit, or the features hold
            NaN or Inf (checked on the CPU).
    """
    measure = CocoMeasure(check_choice(norm, "norm", NORMS), linalg_dtype)
    return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes)


class CocoMeasure(Measure):
    """COCO of two variables given as centered Gram matrices."""

    def __init__(self, norm: str = "spectral", linalg_dtype: torch.dtype | None = None) -> None:
        self.norm = norm
        self.linalg_dtype = linalg_dtype

    def prepare(self, gram: Tensor) -> Tensor:
        return torch.ops.bido_ext.double_center(gram.to(linalg_dtype_for(gram, self.linalg_dtype)))

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        size = frobenius_norm(a @ b) if self.norm == "fro" else top_singular_value(a, b)
        return guarded_sqrt(size) / a.shape[0]


def guarded_sqrt(value: Tensor) -> Tensor:
    """sqrt with gradient 0 at 0, where the true one is infinite."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), value * 0)


def frobenius_norm(M: Tensor) -> Tensor:
    """|M|_F, scaled by the largest entry: squares of centered Gram matrices underflow float32."""
    scale = M.detach().abs().amax()
    scale = torch.where(scale > 0, scale, 1.0)
    return guarded_sqrt((M / scale).square().sum()) * scale


def top_singular_value(Kc: Tensor, Lc: Tensor) -> Tensor:
    """The largest singular value of Kc Lc, as u' Kc Lc v with its singular vectors held constant.

    They are stationary, so this bilinear form has the gradient of the singular value itself.
    """
    u, v = _top_singular_vectors(Kc.detach(), Lc.detach())
    return (Kc @ u) @ (Lc @ v)


@torch.no_grad()
def _top_singular_vectors(Kc: Tensor, Lc: Tensor) -> tuple[Tensor, Tensor]:
    M = Kc @ Lc
    scale = M.abs().amax()
    finite = torch.isfinite(scale)
    usable = finite & (scale > 0)
    M = torch.where(finite, M, 0) / torch.where(usable, scale, 1.0)  # eigh refuses NaN
    v = torch.linalg.eigh(M.T @ M).eigenvectors[:, -1]
    u = M @ v
    length = torch.linalg.vector_norm(u)
    u = u / torch.where(length > 0, length, 1.0)
    # Bad features must show in the value, not vanish behind a repaired matrix.
    return u + torch.where(finite, 0.0, float("nan")).to(u.dtype), v
