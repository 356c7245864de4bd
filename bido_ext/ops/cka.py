# SPDX-License-Identifier: Apache-2.0
"""CKA: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), a composition of the hsic op.

K, L: [n, n]  ->  value: []
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops.coco import guarded_sqrt
from bido_ext.ops.hsic import gram_hsic
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure
from bido_ext.ops.planned import planned_pair


def cka(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Centered kernel alignment of x and y (Cortes et al. 2012; Kornblith et al. 2019).

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), never expanded to one-hot.
        kernel_x: Kernel of x; default Gaussian(sigma=5.0).
        kernel_y: Kernel of y; default Gaussian(sigma=5.0) for features, Linear() for labels.
        num_classes: Number of classes of integer labels; checked, and needed by a Gaussian on labels.
        workspace_bytes: Bound on the memory beyond inputs and gradients, as for :func:`bido_ext.hsic`.

    Returns:
        A 0-d tensor in [0, 1], float32 or, for float64 features, float64; 0 with gradient 0 where
        a variable is constant. Differentiable once.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices or labels do not fit, or the features hold NaN or Inf (checked
            on the CPU).
        MemoryError: No regime fits into workspace_bytes.
    """
    return planned_pair(CkaMeasure(), x, y, kernel_x, kernel_y, num_classes, workspace_bytes)


class CkaMeasure(Measure):
    """CKA of two variables, each given as its centered Gram matrix divided by its Frobenius norm."""

    name = "cka"

    def prepare(self, gram: Tensor) -> Tensor:
        norm = guarded_sqrt(gram_hsic(gram, gram)) * (gram.shape[0] - 1)
        return gram / torch.where(norm > 0, norm, 1.0)

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        return gram_hsic(a, b) * (a.shape[0] - 1) ** 2

    def from_streaming(self, values: Tensor) -> Tensor:
        norm = guarded_sqrt(values[1]) * guarded_sqrt(values[2])
        return values[0] / torch.where(norm > 0, norm, 1.0)
