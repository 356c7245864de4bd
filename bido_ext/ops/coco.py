# SPDX-License-Identifier: Apache-2.0
"""COCO of pairs of a group: sqrt(|HKH HLH|) / n.

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64; for the backward the Gram matrices
of the wanted variables (those that need a gradient) and, by norm,
spectral: singular vectors of each pair, [pairs, 4, n] (coco_spectral.py);
fro:      gradients in the Gram matrices, [sides, n, n] (coco_frobenius.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext._float64 import Function, are_few, has_nan, in_dtypes, mark, marked, widened
from bido_ext.ops import coco_frobenius, coco_spectral
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._validate import check_choice, readable
from bido_ext.ops.algebra import batches
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.coco_group import CocoGroup
from bido_ext.ops.gram_stack import gradients_of, gram_stack_of
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, check_linalg_dtype, linalg_dtype_for, measure_pair
from bido_ext.ops.plan import check_algebra_fits
from bido_ext.reference.gram_stack import group_dtype
from bido_ext.reference.resolution import nan_where_unresolved

NORMS = ("spectral", "fro")


def coco(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    norm: str = "spectral",
    num_classes: int | None = None,
    linalg_dtype: torch.dtype | None = None,
    sigma: Sigma | None = None,
) -> Tensor:
    """Constrained covariance (COCO) of x and y: the strength of their strongest common direction.

    It is sqrt(|HKH HLH|) / n with the centered Gram matrices HKH of x and HLH of y (Gretton et al. 2005).

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which are never expanded to one-hot.
        kernel_x: Kernel of x. Default: Gaussian(sigma=5.0).
        kernel_y: Kernel of y. Default: Linear() for integer labels, Gaussian(sigma=5.0) for float y. If a
            float y holds one-hot, soft or mixed labels, give kernel_y=Linear().
        norm: "spectral" is the largest singular value, the definition. "fro" is the Frobenius norm, which
            the published BiDO code uses; it is at least as large.
        num_classes: Number of classes of integer labels. Labels are checked against it; a Gaussian on
            labels needs it.
        linalg_dtype: torch.float32 or torch.float64, for the n x n algebra. Default: float64 up to
            n = 1024, else the dtype of the Gram matrix.
        sigma: Short for kernel_x=Gaussian(sigma) and, if y is float, kernel_y=Gaussian(sigma).

    Returns:
        A 0-d tensor, 0 or more: float64 for float64 features, else float32. Differentiable once. If
        HKH HLH = 0 (constant features, or a single class), value and gradient are 0. On a GPU and in
        compiled graphs it is NaN where it cannot be resolved.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels, norm or linalg_dtype do not fit. On the CPU also: the features
            hold NaN or Inf, or even float64 cannot resolve the value.
        WorkspaceError: The n x n matrices do not fit into the free memory.

    Example:
        >>> bx.coco(torch.randn(64, 512), torch.randint(0, 5, (64,)), norm="fro")
    """
    measure = CocoMeasure(check_choice(norm, "norm", NORMS), linalg_dtype)
    return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes, sigma=sigma)


class CocoMeasure(Measure):
    """COCO with the spectral or the Frobenius norm."""

    name = "coco"

    def __init__(self, norm: str = "spectral", linalg_dtype: torch.dtype | None = None) -> None:
        self.norm = norm
        self.linalg_dtype = check_linalg_dtype(linalg_dtype)

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        algebra = linalg_dtype_for(group, self.linalg_dtype)
        sides = coco_frobenius.sides_of(group.kinds, *pairs, group.wanted())
        check_algebra_fits(group, self.name, algebra, len(sides) if self.norm == "fro" else 0)
        return torch.ops.bido_ext.coco(
            group.variables, group.parameters, group.kinds, *pairs, self.norm,
            algebra == torch.float64, group.wanted(),
        )[0]  # fmt: skip


def _default(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    with torch.autocast(variables[0].device.type, enabled=False):
        stack = gram_stack_of(variables, parameters, kinds, wanted)
        group = CocoGroup(variables, parameters, kinds, first, second, wide, wanted, stack)
        group.note_wanted()
        values, kept = (coco_frobenius if norm == "fro" else coco_spectral).forward(group)
        nothing = torch.zeros((), dtype=torch.bool, device=values.device)
        bad = [group.unresolved.get(i, nothing) for i in range(len(kinds))]
        values = nan_where_unresolved(values, bad, first, second)
        if readable(values):  # where float64 is a second try
            values = values.masked_fill(group.noise(values, norm), float("nan"))
    return values, stack, kept


def _default_backward(
    grad: Tensor, values: Tensor, variables: Sequence[Tensor], parameters: Tensor, stack: Tensor,
    kept: Tensor, kinds: Sequence[int], first: Sequence[int], second: Sequence[int], norm: str,
    wide: bool, wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    group = CocoGroup(variables, parameters, kinds, first, second, wide, wanted, stack)
    backward = (coco_frobenius if norm == "fro" else coco_spectral).backward
    grads: list[Tensor] = []
    with torch.autocast(parameters.device.type, enabled=False):
        parts = batches(group.n, len(wanted))
        for batch, G in zip(parts, backward(group, grad, values, kept), strict=True):
            grads += gradients_of(
                G.to(stack.dtype), stack[batch], variables, parameters, kinds, wanted[batch]
            )
    return grads


def _fake(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n, dtype = variables[0].shape[0], group_dtype(variables, kinds)
    if norm == "fro":
        shape = len(coco_frobenius.sides_of(kinds, first, second, wanted)), n, n
        kept = parameters.new_empty(shape, dtype=dtype)
    else:
        algebra = torch.float64 if wide else dtype
        kept = parameters.new_empty((len(first), 4, n), dtype=algebra)
    stack = parameters.new_empty((len(wanted), n, n), dtype=dtype)
    return parameters.new_empty((len(first),)), stack, kept


def _in_float64(call: Function, again: Function, args: Any) -> Any:
    if are_few(args[0], args[2]) and args[6]:
        wide = widened(args[0], args[2])
        values, stack, kept = again("coco", wide, *args[1:])
        dtype = group_dtype(args[0], args[2])
        return values, mark(stack.to(dtype)), kept.to(dtype) if args[5] == "fro" else kept
    values, stack, kept = result = call("coco", *args)
    wide = widened(args[0], args[2]) if has_nan(values) else None
    if wide is None:
        return result
    return again("coco", wide, *args[1:6], True, args[7])[0], mark(stack), kept


def _backward_in_float64(call: Function, again: Function, args: Any) -> Any:
    grad, _, variables, parameters, stack, _, kinds, first, second, norm, _, wanted = args
    wide = widened(variables, kinds) if marked(stack) else None
    if wide is None:
        grads = call("coco_backward", *args)
        wide = widened(variables, kinds) if any(map(marked, grads)) else None
        if wide is None:
            return grads
    settings = kinds, first, second, norm, True, wanted
    values, stack, kept = again("coco", wide, parameters, *settings)
    grads = again("coco_backward", grad, values, wide, parameters, stack, kept, *settings)
    return in_dtypes(grads, variables, wanted)


define_op(
    "coco",
    "(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, str norm,"
    " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor)",
    default=_default,
    fake=_fake,
    in_float64=_in_float64,
)
define_op(
    "coco_backward",
    "(Tensor grad, Tensor values, Tensor[] variables, Tensor parameters, Tensor stack, Tensor kept,"
    " int[] kinds, int[] first, int[] second, str norm, bool wide, int[] wanted) -> Tensor[]",
    default=_default_backward,
    fake=lambda grad, values, variables, *arguments: [
        variables[i].new_empty(variables[i].shape) for i in arguments[-1]
    ],
    in_float64=_backward_in_float64,
)
refuse_double_backward("coco_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    variables, parameters, ctx.kinds, ctx.first, ctx.second, ctx.norm, ctx.wide, ctx.wanted = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(parameters, *output, *variables)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    parameters, values, stack, kept, *variables = ctx.saved_tensors
    result: list[Tensor | None] = [None] * len(variables)
    if grad is not None and ctx.wanted:
        grads = torch.ops.bido_ext.coco_backward(
            grad, values, variables, parameters, stack, kept, ctx.kinds, ctx.first, ctx.second,
            ctx.norm, ctx.wide, ctx.wanted,
        )  # fmt: skip
        for i, g in zip(ctx.wanted, grads, strict=True):
            result[i] = g
    return result, *[None] * 7


define_derivative("coco", _backward, _setup_context)
