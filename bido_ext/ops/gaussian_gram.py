# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrix: K_ij = exp(-gamma |x_i - x_j|^2), gamma = 1 / (2 sigma^2 [d]).

x: [n, d]  ->  K: [n, n];   grad_x = -4 gamma (diag(W 1) - W) x,  W = sym(grad_K) o K
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext._float64 import Function, are_few, marked
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import check_bool, check_features
from bido_ext.ops.bandwidth import Sigma, check_sigma, gamma_of
from bido_ext.ops.learnable_sigma import refuse_transforms, tie_sigma
from bido_ext.reference.gaussian_gram import gaussian_gram_backward as _textbook_backward
from bido_ext.reference.gram_stack import GAUSSIAN, accumulation_dtype
from bido_ext.reference.resolution import unresolved


def gaussian_gram(x: Tensor, sigma: Sigma = 5.0, scale_by_dim: bool = True) -> Tensor:
    """Gaussian Gram matrix of the rows of x: K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2 [d])).

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16, any strides.
        sigma: Bandwidth: a positive number, a 0-d tensor (which may require a gradient), or "median". The
            last is the median distance; it is never scaled by the dimension, and gets no gradient.
        scale_by_dim: Divide squared distances by d, as BiDO does (Peng et al. 2022).

    Returns:
        K (n, n): float64 for float64 features, else float32. Differentiable once in x.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is not (n, d), or sigma is not positive.

    Example:
        >>> bx.gaussian_gram(torch.randn(4, 3)).shape
        torch.Size([4, 4])
    """
    if isinstance(x, Tensor) and transforms_active(x, vmap=False):
        refuse_transforms(sigma)
        return through_transforms(lambda x: gaussian_gram(x, sigma, scale_by_dim), x)
    check_features(x, "x")
    check_bool(scale_by_dim, "scale_by_dim")
    gamma = gamma_of(check_sigma(sigma), x.detach(), scale_by_dim)
    return torch.ops.bido_ext.gaussian_gram(tie_sigma(x, sigma), gamma, False)


def _default(x: Tensor, gamma: Tensor, minus_one: bool) -> Tensor:
    dtype = accumulation_dtype(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return reference.gaussian_gram(x.to(dtype), gamma.to(dtype), minus_one)


def _default_backward(
    grad: Tensor, gram: Tensor, x: Tensor, gamma: Tensor, minus_one: bool
) -> Tensor:
    dtype = accumulation_dtype(x.dtype)
    K = gram + 1 if minus_one else gram
    with torch.autocast(x.device.type, enabled=False):
        return _textbook_backward(grad, K, x.to(dtype), gamma.to(dtype)).to(x.dtype)


def _in_float64(call: Function, again: Function, args: Any) -> Any:
    x, *rest = args
    if are_few([x], [GAUSSIAN]):
        return again("gaussian_gram", x.double(), *rest).to(accumulation_dtype(x.dtype))
    K = call("gaussian_gram", *args)
    if x.dtype == torch.float64 or not bool(unresolved(K if args[2] else K - 1)):
        return K
    return again("gaussian_gram", x.double(), *rest).to(K.dtype)


def _backward_in_float64(call: Function, again: Function, args: Any) -> Any:
    grad, K, x, gamma, minus_one = args
    if not are_few([x], [GAUSSIAN]) and (
        x.dtype == torch.float64 or not bool(unresolved(K if minus_one else K - 1))
    ):
        gradient = call("gaussian_gram_backward", *args)
        if x.dtype == torch.float64 or not marked(gradient):
            return gradient
    wide = x.double()
    K = again("gaussian_gram", wide, gamma, minus_one)
    return again("gaussian_gram_backward", grad.double(), K, wide, gamma, minus_one).to(x.dtype)


define_op(
    "gaussian_gram",
    "(Tensor x, Tensor gamma, bool minus_one) -> Tensor",
    default=_default,
    fake=lambda x, gamma, minus_one: x.new_empty(
        (x.shape[0], x.shape[0]), dtype=accumulation_dtype(x.dtype)
    ),
    in_float64=_in_float64,
)
define_op(
    "gaussian_gram_backward",
    "(Tensor grad, Tensor gram, Tensor x, Tensor gamma, bool minus_one) -> Tensor",
    default=_default_backward,
    fake=lambda grad, gram, x, gamma, minus_one: x.new_empty(x.shape),
    in_float64=_backward_in_float64,
)
refuse_double_backward("gaussian_gram_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gamma, ctx.minus_one = inputs
    ctx.save_for_backward(output, x, gamma)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    gram, x, gamma = ctx.saved_tensors
    grad_x = torch.ops.bido_ext.gaussian_gram_backward(grad, gram, x, gamma, ctx.minus_one)
    return grad_x, None, None


define_derivative("gaussian_gram", _backward, _setup_context)
