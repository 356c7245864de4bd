# SPDX-License-Identifier: Apache-2.0
"""What the dependence measures share: checked arguments become a group, and a measure gives the values of
its pairs. BiDO is one group with two pairs per layer; a measure of x and y is a group of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.ops._symbolic import surely
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import (
    FLOATS,
    check_features,
    check_labels,
    check_num_classes,
    check_same_samples,
    is_labels,
    readable,
)
from bido_ext.ops._why import why_not_finite
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.group import Group, Pairs, make_group
from bido_ext.ops.kernels import Gaussian, Kernel
from bido_ext.ops.learnable_sigma import refuse_transforms, sigmas_of
from bido_ext.ops.plan import FLOAT64_UP_TO


class Measure:
    """A dependence measure.

    Attributes:
        name: As the user writes it.
        streams: Whether it can run without n x n matrices.
        minimum_rows: Samples it needs.
        eps: Its ridge, of a measure that has one: it needs Gram matrices to the last digit.
        unbiased: Whether its estimator is unbiased, and ignores the diagonals of Gram matrices.
        exact: Whether the Gram matrix of a kernel of the user's own has to be float64, whose gradient no second
            try makes again.
    """

    name = ""
    streams = False
    minimum_rows = 2
    eps: float | None = None
    unbiased: bool = False

    @property
    def exact(self) -> bool:
        return self.eps is not None

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        """The measure of each pair, [pairs], differentiable once in the group's variables."""
        raise NotImplementedError

    def check(self, value: Tensor, narrow: Tensor, group: Group) -> None:
        """Raises if the value of x and y is not finite, or not as it is returned, and says why.

        Args:
            narrow: The value in the dtype that is returned.
            group: Of x and y.
        """
        if bool(torch.isfinite(narrow)):
            return
        if bool(torch.isfinite(value)):
            raise ValueError(
                f"{self.name} is {float(value.detach()):g}, which float32 does not hold: pass float64, "
                "or scale the features down."
            )
        raise ValueError(self.why_not_finite(group, ["x", "y"]))

    def why_not_finite(self, group: Group, names: Sequence[str]) -> str:
        """Why a value is not finite, in a sentence that names the variable and what to do."""
        return why_not_finite(group, names, self.eps)

    def why_not_finite_over_ranks(self, names: Sequence[str]) -> str:
        """The same where no rank has the whole batch at hand: what the reason may be."""
        if self.eps is None:
            return "products of its features overflow. Scale the features down, or pass float64."
        return (
            "products of its features overflow, or its Gram matrix is not resolved beside the ridge of "
            f"{self.name}. Scale the features down, pass float64, or raise eps."
        )


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
    """Dtype of the n x n algebra: as asked, else float64 up to n = FLOAT64_UP_TO, else the group's.

    In a graph of a dynamic batch, which holds for n below and above, float64.
    """
    if linalg_dtype is not None:
        return linalg_dtype
    return group.dtype if surely(group.n > FLOAT64_UP_TO) else torch.float64


def check_kernel(kernel: object, name: str) -> None:
    """A Kernel or None."""
    if kernel is not None and not isinstance(kernel, Kernel):
        raise TypeError(
            f"{name} must be a kernel such as Gaussian(), Linear() or InverseMultiquadric(), "
            f"got {type(kernel).__name__}."
        )
    if kernel is not None and (
        kernel.kind is None and type(kernel).gram_up_to_centering is Kernel.gram_up_to_centering
    ):
        raise TypeError(f"{name} is a {type(kernel).__name__} without gram_up_to_centering(x).")


def measure_pair(
    measure: Measure,
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None,
    kernel_y: Kernel | None,
    num_classes: int | None,
    workspace_bytes: int | None = None,
    sigma: Sigma | None = None,
) -> Tensor:
    """Checks the arguments of a measure d(x, y) and computes it; a 0-d tensor.

    Args:
        sigma: Short for Gaussian(sigma) as kernel of x and of float y.
    """
    if sigma is not None:
        if kernel_x is not None or kernel_y is not None:
            raise ValueError(
                "sigma is short for Gaussian(sigma) as both kernels: give it, or kernel_x and kernel_y, "
                "not both."
            )
        kernel_x = Gaussian(sigma)
        kernel_y = None if isinstance(y, Tensor) and is_labels(y) else kernel_x
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():
        raise RuntimeError(
            f"{measure.name} cannot be recorded by torch.jit.trace: use torch.export.export or torch.compile."
        )
    if isinstance(x, Tensor) and isinstance(y, Tensor) and transforms_active(x, y):
        refuse_transforms(*sigmas_of([kernel_x, kernel_y]))

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
    group = make_group([x, y], [kernel_x, kernel_y], num_classes, measure.exact, measure.unbiased)
    (value,) = measure.values(group, Pairs([0], [1]), workspace_bytes).unbind()
    narrow = value.to(torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32)
    # Looking at one number is free on the CPU; elsewhere, and under torch.compile, it would stop the host.
    if readable(value):
        measure.check(value, narrow, group)
    return narrow


def guarded_sqrt(value: Tensor) -> Tensor:
    """sqrt with gradient 0 at 0, where the true one is infinite."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), value * 0)
