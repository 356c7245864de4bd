# SPDX-License-Identifier: Apache-2.0
"""What the dependence measures share: a variable becomes a Gram matrix, is prepared once (centered,
factorised), and any two prepared variables give a value. BiDO prepares the input and the labels once
per step and every layer once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._validate import (
    check_features,
    check_finite_result,
    check_labels,
    check_same_samples,
    is_labels,
)
from bido_ext.ops.kernels import Gaussian, Kernel, Linear, same_class

#: Up to this n the n x n algebra of nHSIC and COCO runs in float64: n^3 is still small beside n^2 d.
FLOAT64_UP_TO = 1024


class Measure:
    """A dependence measure on prepared variables."""

    name = ""

    def prepare(self, gram: Tensor) -> Tensor:
        """From a Gram matrix up to centering (n, n) to what :meth:`value` needs of it."""
        raise NotImplementedError

    def prepare_labels(self, labels: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """The same for integer labels (n,): their Gram matrix is scale * [y_i = y_j]."""
        return self.prepare(same_class(labels, dtype).mul_(scale))

    def value(self, a: Tensor, b: Tensor) -> Tensor:
        """The measure of two prepared variables, a 0-d tensor."""
        raise NotImplementedError

    def from_streaming(self, values: Tensor) -> Tensor:
        """The measure from HSIC(x, y), HSIC(x, x), HSIC(y, y), if it can be streamed."""
        raise NotImplementedError


def linalg_dtype_for(gram: Tensor, linalg_dtype: torch.dtype | None) -> torch.dtype:
    """Dtype of the n x n algebra: as asked, else float64 up to n = FLOAT64_UP_TO, else the matrix's."""
    if linalg_dtype is None:
        return torch.float64 if gram.shape[0] <= FLOAT64_UP_TO else gram.dtype
    if linalg_dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"linalg_dtype must be torch.float32 or torch.float64, got {linalg_dtype}."
        )
    return linalg_dtype


def prepare_features(measure: Measure, x: Tensor, kernel: Kernel | None) -> Tensor:
    """Gram matrix and preparation of features (n, d), outside of autocast's reach."""
    kernel = Gaussian() if kernel is None else kernel
    with torch.autocast(x.device.type, enabled=False):
        return measure.prepare(kernel.gram_up_to_centering(x))


def prepare_labels(
    measure: Measure, y: Tensor, kernel: Kernel | None, num_classes: int | None, dtype: torch.dtype
) -> Tensor:
    """Preparation of integer labels (n,)."""
    kernel = Linear() if kernel is None else kernel
    with torch.autocast(y.device.type, enabled=False):
        return measure.prepare_labels(y, kernel.label_scale(num_classes), dtype)


def check_kernel(kernel: object, name: str) -> None:
    """A Kernel or None."""
    if kernel is not None and not isinstance(kernel, Kernel):
        raise TypeError(
            f"{name} must be a kernel such as Gaussian(), Linear() or InverseMultiquadric(), "
            f"got {type(kernel).__name__}."
        )


def measure_pair(
    measure: Measure,
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None,
    kernel_y: Kernel | None,
    num_classes: int | None,
    minimum_rows: int = 2,
) -> Tensor:
    """Checks the arguments of a measure d(x, y) and computes it from Gram matrices."""
    labels = check_pair(x, y, kernel_x, kernel_y, num_classes, minimum_rows)
    a = prepare_features(measure, x, kernel_x)
    if labels:
        b = prepare_labels(measure, y, kernel_y, num_classes, a.dtype)
    else:
        b = prepare_features(measure, y, kernel_y)
    if a.dtype != b.dtype:
        a, b = a.double(), b.double()
    with torch.autocast(x.device.type, enabled=False):
        value = measure.value(a, b)
    return finish_pair(value, x, y, labels)


def check_pair(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None,
    kernel_y: Kernel | None,
    num_classes: int | None,
    minimum_rows: int = 2,
) -> bool:
    """Checks the arguments of a measure d(x, y); returns whether y holds labels."""
    check_kernel(kernel_x, "kernel_x")
    check_kernel(kernel_y, "kernel_y")
    check_features(x, "x", minimum_rows)
    labels = isinstance(y, Tensor) and is_labels(y)
    if labels:
        check_labels(y, "y", num_classes)
    else:
        check_features(y, "y", minimum_rows)
    check_same_samples(x, y, "x", "y")
    return labels


def finish_pair(value: Tensor, x: Tensor, y: Tensor, labels: bool) -> Tensor:
    """Refuses a value that is not finite, and gives it the dtype of the result."""
    check_finite_result(value, **({"x": x} if labels else {"x": x, "y": y}))
    return value.to(torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32)
