# SPDX-License-Identifier: Apache-2.0
"""Double centering: H K H with H = I - 11'/n. Self-adjoint, so it is its own backward.

K: [n, n]  ->  HKH: [n, n]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.ops._define import define_derivative, define_op
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import check_gram


def double_center(K: Tensor) -> Tensor:
    """H K H with H = I - 11'/n: subtracts row and column means and adds the total mean.

    Args:
        K: Square matrix (n, n), float32 or float64, not necessarily symmetric.

    Returns:
        HKH (n, n), in the dtype of K. Differentiable any number of times.

    Raises:
        TypeError: K is not a float32 or float64 tensor.
        ValueError: K is not square.
    """
    if isinstance(K, Tensor) and transforms_active(K, vmap=False):
        return through_transforms(double_center, K)
    K = check_gram(K, "K")
    return torch.ops.bido_ext.double_center(K)


define_op(
    "double_center",
    "(Tensor K) -> Tensor",
    default=reference.double_center,
    fake=lambda K: K.new_empty(K.shape),
)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return torch.ops.bido_ext.double_center(grad)


define_derivative("double_center", _backward, lambda ctx, inputs, output: None)
