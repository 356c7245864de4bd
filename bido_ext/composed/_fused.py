# SPDX-License-Identifier: Apache-2.0
"""What follows a product in one pass, by Triton where it is there: elementwise, the eager form takes six."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from bido_ext.serving import libraries

#: Tests run the kernels on a CPU.
IN_THE_INTERPRETER = False


def is_fused(like: Tensor | None) -> bool:
    """Whether a kernel takes float32 matrices of such a device."""
    if like is None or like.dtype != torch.float32 or type(like) is not Tensor:
        return False
    there = like.is_cuda or (IN_THE_INTERPRETER and like.device.type == "cpu")
    return there and libraries.has_triton()


def fused_entries(
    products: Tensor, norms: Tensor, rows: slice, parameter: Tensor, kind: int
) -> Tensor:
    """Gram entries up to centering of inner products (rows, n), which they take the place of."""
    _kernels().entries_of_products(products, norms, rows.start, parameter, kind)
    return products


def fused_weights(g: Tensor, E: Tensor, rows: slice, parameter: Tensor, kind: int) -> Tensor:
    """Weights A (rows, n) of the feature gradient, 0 on the diagonal."""
    A: Tensor = _kernels().weights_of_entries(g, E, rows.start, parameter, kind)
    return A


def _kernels() -> Any:
    return importlib.import_module("bido_ext.triton_kernels.product_epilogue")
