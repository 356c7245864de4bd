# SPDX-License-Identifier: Apache-2.0
"""COCO of pairs of a group: sqrt(|HKH HLH|) / n.

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64; for the backward the Gram matrices
of the variables that need a gradient and, by norm, of the M = Kc Lc of each pair
spectral: the top singular triple (u, s, v): u, v, Lc v and Kc u, [pairs, 4, n];
          grad_K = sym(u (Lc v)') / (2 n sqrt(s))
fro:      Lc^2 of each partner, [partners, n, n], since |M|_F^2 = <Kc^2, Lc^2>;
          grad_K = sym(Kc Lc^2) |M|_F^(-3/2) / (2 n)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._validate import check_choice
from bido_ext.ops.algebra import batches, center_stack, inner_product, partner_sum, partners_of
from bido_ext.ops.gram_stack import gradients_of, gram_stack_of
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.kernels import Kernel, same_class
from bido_ext.ops.measure import Measure, check_linalg_dtype, linalg_dtype_for, measure_pair
from bido_ext.ops.plan import check_algebra_fits
from bido_ext.reference.gram_stack import LABELS, group_dtype

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
    """COCO with the spectral or the Frobenius norm."""

    name = "coco"

    def __init__(self, norm: str = "spectral", linalg_dtype: torch.dtype | None = None) -> None:
        self.norm = norm
        self.linalg_dtype = check_linalg_dtype(linalg_dtype)

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        algebra = linalg_dtype_for(group, self.linalg_dtype)
        check_algebra_fits(group, self.name, algebra)
        return torch.ops.bido_ext.coco(
            group.variables, group.parameters, group.kinds, *pairs, self.norm,
            algebra == torch.float64, group.wanted(),
        )[0]  # fmt: skip


def top_singular_vectors(Kc: Tensor, Lc: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of the largest singular value of Kc Lc; NaN where the matrices are not finite."""
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


def _default(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n = variables[0].shape[0]
    dtype = torch.float64 if wide else group_dtype(variables, kinds)
    partners = partners_of(first, second, wanted)
    others = [i for i in range(len(kinds)) if i not in wanted]
    with torch.autocast(variables[0].device.type, enabled=False):
        stack = gram_stack_of(variables, parameters, kinds, wanted)
        # Centered matrices of what several pairs share; the others live for one batch.
        shared = [i for i in range(len(kinds)) if i in others or i in partners]
        centered = dict(zip(wanted, [stack[k] for k in range(len(wanted))], strict=True))
        centered = {i: center_stack(centered[i], dtype) for i in wanted if i in shared}
        for i in others:
            if kinds[i] == LABELS:  # exact in any dtype
                gram = same_class(variables[i], dtype) * parameters[i].to(dtype)
            else:
                gram = gram_stack_of(variables, parameters, kinds, [i])[0]
            centered[i] = center_stack(gram, dtype)
        squares = {i: centered[i] @ centered[i] for i in shared} if norm == "fro" else {}
        values = parameters.new_zeros((len(first),))
        vectors = parameters.new_zeros((len(first), 4, n), dtype=dtype)
        done: set[int] = set()
        for batch in [slice(0, 0), *batches(n, len(wanted))]:
            here = dict(zip(wanted[batch], center_stack(stack[batch], dtype), strict=True))
            here_squares = {}
            if norm == "fro" and wide and here:
                block = torch.stack([here[i] for i in here])
                here_squares = dict(zip(here, block @ block, strict=True))
            for p, (a, b) in enumerate(zip(first, second, strict=True)):
                if p in done or not all(i in centered or i in here for i in (a, b)):
                    continue
                done.add(p)
                Kc, Lc = (here[i] if i in here else centered[i] for i in (a, b))
                if norm == "spectral":
                    u, v = top_singular_vectors(Kc, Lc)
                    Ku, Lv = Kc @ u, Lc @ v
                    vectors[p] = torch.stack([u, v, Lv, Ku])
                    values[p] = torch.dot(Ku, Lv).clamp_min(0).sqrt() / n
                elif wide:
                    A, B = (here_squares[i] if i in here_squares else squares[i] for i in (a, b))
                    values[p] = inner_product(A, B).clamp_min(0) ** 0.25 / n
                else:  # <Kc^2, Lc^2> may cancel in float32, the norm of the product cannot
                    values[p] = torch.linalg.vector_norm(Kc @ Lc, dtype=torch.float64).sqrt() / n
    if norm == "spectral":
        return values, stack, vectors
    kept = [squares[i] for i in partners]
    return values, stack, torch.stack(kept) if kept else vectors.new_empty((0, n, n))


def _default_backward(
    grad: Tensor, values: Tensor, variables: Sequence[Tensor], parameters: Tensor, stack: Tensor,
    kept: Tensor, kinds: Sequence[int], first: Sequence[int], second: Sequence[int], norm: str,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    n, partners = stack.shape[-1], partners_of(first, second, wanted)
    # value = s^(1/2) / n, s = |M|: the gradient is defined as 0 where the value is.
    safe = torch.where(values > 0, values, 1.0)
    power = 3 if norm == "fro" else 1
    weight = torch.where(values > 0, grad / (2 * n * (safe * n) ** power), 0 * values)
    grads: list[Tensor] = []
    with torch.autocast(parameters.device.type, enabled=False):
        for batch in batches(n, len(wanted)):
            if norm == "fro":
                target = partner_sum(weight, first, second, wanted[batch], partners, kept)
                half = center_stack(stack[batch], kept.dtype) @ target
            else:
                half = kept.new_zeros((len(wanted[batch]), n, n))
                for p, (a, b) in enumerate(zip(first, second, strict=True)):
                    u, v, Lv, Ku = kept[p].unbind()
                    for own, left, right in ((a, u, Lv), (b, v, Ku)):
                        if own in wanted[batch]:
                            k = list(wanted[batch]).index(own)
                            half[k] += torch.outer(left * weight[p].to(left.dtype), right)
            G = (half + half.mT) / 2
            grads += gradients_of(
                G.to(stack.dtype), stack[batch], variables, parameters, kinds, wanted[batch]
            )
    return grads


def _fake(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], norm: str, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n, dtype = variables[0].shape[0], group_dtype(variables, kinds)
    rows = (len(first), 4) if norm == "spectral" else (len(partners_of(first, second, wanted)), n)
    return (
        parameters.new_empty((len(first),)),
        parameters.new_empty((len(wanted), n, n), dtype=dtype),
        parameters.new_empty((*rows, n), dtype=torch.float64 if wide else dtype),
    )


define_op(
    "coco",
    "(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, str norm,"
    " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor)",
    default=_default,
    fake=_fake,
)
define_op(
    "coco_backward",
    "(Tensor grad, Tensor values, Tensor[] variables, Tensor parameters, Tensor stack, Tensor kept,"
    " int[] kinds, int[] first, int[] second, str norm, int[] wanted) -> Tensor[]",
    default=_default_backward,
    fake=lambda grad, values, variables, parameters, stack, kept, kinds, first, second, norm, wanted: [
        variables[i].new_empty(variables[i].shape) for i in wanted
    ],
)
refuse_double_backward("coco_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    variables, parameters, ctx.kinds, ctx.first, ctx.second, ctx.norm, _, ctx.wanted = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(parameters, *output, *variables)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    parameters, values, stack, kept, *variables = ctx.saved_tensors
    result: list[Tensor | None] = [None] * len(variables)
    if grad is not None and ctx.wanted:
        grads = torch.ops.bido_ext.coco_backward(
            grad, values, variables, parameters, stack, kept, ctx.kinds, ctx.first, ctx.second,
            ctx.norm, ctx.wanted,
        )  # fmt: skip
        for i, g in zip(ctx.wanted, grads, strict=True):
            result[i] = g
    return result, *[None] * 7


define_derivative("coco", _backward, _setup_context)
