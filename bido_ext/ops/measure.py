# SPDX-License-Identifier: Apache-2.0
"""What the dependence measures share: checked arguments become a group, and a measure gives the values of
its pairs. BiDO is one group with two pairs per layer; a measure of x and y is a group of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import (
    FLOATS,
    check_features,
    check_finite_result,
    check_labels,
    check_num_classes,
    check_same_samples,
    is_labels,
)
from bido_ext.ops.group import Group, Pairs, make_group
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.plan import FLOAT64_UP_TO


class Measure:
    """A dependence measure.

    Attributes:
        name: As the user writes it.
        streams: Whether it can run without n x n matrices.
        minimum_rows: Samples it needs.
    """

    name = ""
    streams = False
    minimum_rows = 2

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        """The measure of each pair, [pairs], differentiable once in the group's variables."""
        raise NotImplementedError

    def check(self, value: Tensor, **features: Tensor) -> None:
        """Raises if the value of a pair is not finite and should be; ``features`` by argument name."""
        check_finite_result(value, **features)


def check_linalg_dtype(linalg_dtype: torch.dtype | None) -> torch.dtype | None:
    """float32, float64 or None."""
    if linalg_dtype is None:
        return None
    if (
        not isinstance(linalg_dtype, torch.dtype)
        or linalg_dtype.itemsize < 4
        or linalg_dtype not in FLOATS
    ):
        raise ValueError(
            f"linalg_dtype must be torch.float32 or torch.float64, got {linalg_dtype}."
        )
    return linalg_dtype


def linalg_dtype_for(group: Group, linalg_dtype: torch.dtype | None) -> torch.dtype:
    """Dtype of the n x n algebra: as asked, else float64 up to n = FLOAT64_UP_TO, else the group's."""
    if linalg_dtype is not None:
        return linalg_dtype
    return torch.float64 if group.n <= FLOAT64_UP_TO else group.dtype


def check_kernel(kernel: object, name: str) -> None:
    """A Kernel or None."""
    if kernel is not None and not isinstance(kernel, Kernel):
        raise TypeError(
            f"{name} must be a kernel such as Gaussian(), Linear() or InverseMultiquadric(), "
            f"got {type(kernel).__name__}."
        )
    if kernel is not None and type(kernel).gram_up_to_centering is Kernel.gram_up_to_centering:
        raise TypeError(f"{name} is a {type(kernel).__name__} without gram_up_to_centering(x).")


def measure_pair(
    measure: Measure,
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None,
    kernel_y: Kernel | None,
    num_classes: int | None,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Checks the arguments of a measure d(x, y) and computes it; a 0-d tensor."""
    if isinstance(x, Tensor) and isinstance(y, Tensor) and transforms_active(x, y):

        def of_plain(x: Tensor, y: Tensor) -> Tensor:
            return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes, workspace_bytes)

        return through_transforms(of_plain, x, y)
    check_kernel(kernel_x, "kernel_x")
    check_kernel(kernel_y, "kernel_y")
    check_num_classes(num_classes)
    check_features(x, "x", measure.minimum_rows)
    labels = isinstance(y, Tensor) and is_labels(y)
    if labels:
        check_labels(y, "y", num_classes)
    else:
        check_features(y, "y", measure.minimum_rows)
    check_same_samples(x, y, "x", "y")
    group = make_group([x, y], [kernel_x, kernel_y], num_classes)
    (value,) = measure.values(group, Pairs([0], [1]), workspace_bytes).unbind()
    measure.check(value, **({"x": x} if labels else {"x": x, "y": y}))
    return value.to(torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32)


def guarded_sqrt(value: Tensor) -> Tensor:
    """sqrt with gradient 0 at 0, where the true one is infinite."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), value * 0)
