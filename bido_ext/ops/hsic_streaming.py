# SPDX-License-Identifier: Apache-2.0
"""HSIC and CKA from features without any n x n matrix: tiles are made, summed and dropped.

    x: [n, d], y: [n, e] or labels [n]  ->  HSIC(x, y), HSIC(x, x), HSIC(y, y): [3] float64
    row sums of both Gram matrices up to centering: [n] float64, and the kept tiles, for the backward

Memory beyond inputs and gradients: two tiles, their chunks, O(n). The backward makes the tiles again:
1.5 times the products of the dense form. With ``keep_tiles`` the upper tiles of both Gram matrices are
kept (together about one n x n matrix) and nothing is made twice: the dense regime of large n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.ops._define import (
    accumulation_dtype,
    define_derivative,
    define_op,
    refuse_double_backward,
)
from bido_ext.ops._validate import is_labels
from bido_ext.ops.bandwidth import gamma_of
from bido_ext.ops.kernels import Gaussian, InverseMultiquadric, Kernel, Linear, same_class
from bido_ext.reference.gaussian_gram import squared_distances

GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS = range(4)  # csrc/common/kernel_tile.h
KINDS: dict[type[Kernel], int] = {
    Gaussian: GAUSSIAN,
    Linear: LINEAR,
    InverseMultiquadric: INVERSE_MULTIQUADRIC,
}


def streaming_hsic_values(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel,
    kernel_y: Kernel,
    num_classes: int | None,
    tile: int,
    keep_tiles: bool,
) -> Tensor:
    """Biased HSIC of (x, y), (x, x) and (y, y): a tensor of three float64 numbers.

    The arguments are checked by the callers, :func:`bido_ext.hsic` and :func:`bido_ext.cka`.
    """
    if not is_labels(y) and accumulation_dtype(x.dtype) != accumulation_dtype(y.dtype):
        x, y = x.double(), y.double()
    kind_x, parameter_x = _kernel_arguments(x, kernel_x, num_classes)
    kind_y, parameter_y = _kernel_arguments(y, kernel_y, num_classes)
    labels_as_int64 = y.long() if is_labels(y) else y
    return torch.ops.bido_ext.hsic_streaming(
        x, labels_as_int64, parameter_x, parameter_y, kind_x, kind_y, tile, keep_tiles
    )[0]


def _kernel_arguments(x: Tensor, kernel: Kernel, num_classes: int | None) -> tuple[int, Tensor]:
    if is_labels(x):
        scale = kernel.label_scale(num_classes)
        return LABELS, torch.full((), scale, dtype=torch.float64, device=x.device)
    if type(kernel) not in KINDS:
        raise ValueError(
            f"{type(kernel).__name__} has no streaming form: leave workspace_bytes unset."
        )
    if isinstance(kernel, Gaussian):
        return GAUSSIAN, gamma_of(kernel.sigma, x.detach(), kernel.scale_by_dim)
    return KINDS[type(kernel)], torch.ones((), dtype=torch.float64, device=x.device)


def _gram(x: Tensor, parameter: Tensor, kind: int, dtype: torch.dtype) -> Tensor:
    if kind == LABELS:
        return same_class(x, dtype) * parameter.to(dtype)
    x = x.to(dtype)
    if kind == GAUSSIAN:
        return reference.gaussian_gram(x, parameter.to(dtype), minus_one=True)
    if kind == LINEAR:
        x = x - x.mean(0, keepdim=True)
        return x @ x.T
    return torch.expm1(-0.5 * torch.log1p(squared_distances(x)))


def _default(
    x: Tensor, y: Tensor, parameter_x: Tensor, parameter_y: Tensor, kind_x: int, kind_y: int,
    tile: int, keep_tiles: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The dense textbook: right on every device, but it does not save memory."""
    with torch.autocast(x.device.type, enabled=False):
        K = _gram(x, parameter_x, kind_x, accumulation_dtype(x.dtype)).double()
        L = _gram(y, parameter_y, kind_y, accumulation_dtype(x.dtype)).double()
        values = torch.stack([reference.hsic(K, L), reference.hsic(K, K), reference.hsic(L, L)])
    tiles = _fake(x, y, parameter_x, parameter_y, kind_x, kind_y, tile, False)[3:]
    return values, K.sum(1), L.sum(1), *tiles


def _default_backward(
    grad: Tensor, x: Tensor, y: Tensor, parameter_x: Tensor, parameter_y: Tensor, x_sums: Tensor,
    y_sums: Tensor, x_tiles: Tensor, y_tiles: Tensor, kind_x: int, kind_y: int, tile: int,
    needs_x: bool, needs_y: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = accumulation_dtype(x.dtype)
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        leaf_x = x.detach().to(dtype, copy=True).requires_grad_(needs_x)
        leaf_y = (
            y.detach()
            if kind_y == LABELS
            else y.detach().to(dtype, copy=True).requires_grad_(needs_y)
        )
        K = _gram(leaf_x, parameter_x, kind_x, dtype).double()
        L = _gram(leaf_y, parameter_y, kind_y, dtype).double()
        values = torch.stack([reference.hsic(K, L), reference.hsic(K, K), reference.hsic(L, L)])
        leaves = [leaf for leaf, needed in ((leaf_x, needs_x), (leaf_y, needs_y)) if needed]
        grads = list(torch.autograd.grad(values, leaves, grad))
    nothing = x.new_empty((0,))
    grad_x = grads.pop(0).to(x.dtype) if needs_x else nothing
    return grad_x, grads.pop(0).to(y.dtype) if needs_y else nothing.clone()


def _fake(
    x: Tensor, y: Tensor, parameter_x: Tensor, parameter_y: Tensor, kind_x: int, kind_y: int,
    tile: int, keep_tiles: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = x.shape[0]
    tile = min(tile, n)
    blocks = (n + tile - 1) // tile

    def store(kind: int) -> Tensor:
        count = blocks * (blocks + 1) // 2 if keep_tiles and kind != LABELS else 0
        return x.new_empty((count, tile, tile), dtype=accumulation_dtype(x.dtype))

    values = x.new_empty((3,), dtype=torch.float64)
    sums = [x.new_empty((n,), dtype=torch.float64) for _ in range(2)]
    return values, *sums, store(kind_x), store(kind_y)


define_op(
    "hsic_streaming",
    "(Tensor x, Tensor y, Tensor parameter_x, Tensor parameter_y, int kind_x, int kind_y, int tile,"
    " bool keep_tiles) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    default=_default,
    fake=_fake,
)
define_op(
    "hsic_streaming_backward",
    "(Tensor grad, Tensor x, Tensor y, Tensor parameter_x, Tensor parameter_y, Tensor x_sums,"
    " Tensor y_sums, Tensor x_tiles, Tensor y_tiles, int kind_x, int kind_y, int tile,"
    " bool needs_x, bool needs_y) -> (Tensor, Tensor)",
    default=_default_backward,
    fake=lambda grad, x, y, px, py, xs, ys, xt, yt, kind_x, kind_y, tile, needs_x, needs_y: (
        x.new_empty(x.shape if needs_x else (0,)),
        y.new_empty(y.shape) if needs_y else x.new_empty((0,)),
    ),
)
refuse_double_backward("hsic_streaming_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, parameter_x, parameter_y, *ctx.settings, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(x, y, parameter_x, parameter_y, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    needs_x, needs_y = ctx.needs_input_grad[:2]
    grad_x, grad_y = torch.ops.bido_ext.hsic_streaming_backward(
        grad, *ctx.saved_tensors, *ctx.settings, needs_x, needs_y
    )
    return (grad_x if needs_x else None, grad_y if needs_y else None, *[None] * 6)


define_derivative("hsic_streaming", _backward, _setup_context)
