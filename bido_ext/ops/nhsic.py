# SPDX-License-Identifier: Apache-2.0
"""nHSIC of pairs of a group: tr(S_K S_L), S = Kc (Kc + eps n I)^-1, Kc = H K H (what BiDO-HSIC trains with).

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64; for the backward the Gram matrices
and the inverses P = (Kc + c I)^-1, c = eps n, of the variables that need a gradient, and the factors S of
their partners
    grad_K = c P (sum of grad S_partner) P = (I - S) (...) (I - S) / c,   grad_x as in gram_stack

The symmetric form equals the one-sided K H (K H + c I)^-1 of the published code exactly, but Kc + c I is
positive definite: one Cholesky factorisation per variable replaces a general inverse per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext._float64 import (
    Function,
    are_few,
    are_narrow,
    has_nan,
    in_dtypes,
    mark,
    marked,
    widened,
)
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._validate import check_positive
from bido_ext.ops.algebra import batches, inner_product, partner_sum, partners_of
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.gram_stack import gradients_of, gram_stack_of
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.linear_factor import linear_factor
from bido_ext.ops.measure import Measure, check_linalg_dtype, linalg_dtype_for, measure_pair
from bido_ext.ops.nhsic_factors import (
    average_equal_rows,
    factor,
    factorise,
    is_unresolved,
    label_factor,
)
from bido_ext.ops.nhsic_gradient import gradient_of_gram
from bido_ext.ops.plan import check_algebra_fits, float64_serves
from bido_ext.reference.gram_stack import GRAM, LABELS, LINEAR, group_dtype
from bido_ext.reference.kernel_entries import scalar
from bido_ext.reference.resolution import nan_where_unresolved


def nhsic(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    eps: float = 1e-5,
    num_classes: int | None = None,
    linalg_dtype: torch.dtype | None = None,
    sigma: Sigma | None = None,
) -> Tensor:
    """Normalised HSIC of x and y: roughly the number of directions that they have in common.

    It is tr(S_K S_L) with S_K = HKH (HKH + eps n I)^-1 (Fukumizu et al. 2007; Ma et al. 2020), and the
    measure of the published BiDO-HSIC (Peng et al. 2022).

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which are never expanded to one-hot.
        kernel_x: Kernel of x. Default: Gaussian(sigma=5.0).
        kernel_y: Kernel of y. Default: Linear() for integer labels, Gaussian(sigma=5.0) for float y. If a
            float y holds one-hot, soft or mixed labels, give kernel_y=Linear().
        eps: Ridge relative to n. It changes the value; the published BiDO uses 1e-5.
        num_classes: Number of classes of integer labels. Labels are checked against it; a Gaussian on
            labels needs it.
        linalg_dtype: torch.float32 or torch.float64, for centering, Cholesky and products. Default: float64
            up to n = 1024 (on a CPU for every n, if the memory suffices), else the dtype of the Gram matrix.
        sigma: Short for kernel_x=Gaussian(sigma) and, if y is float, kernel_y=Gaussian(sigma).

    Returns:
        A 0-d tensor in [0, n - 1]: float64 for float64 features, else float32. Differentiable once. On a GPU
        and in compiled graphs it is NaN where it cannot be resolved.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices, labels, eps or linalg_dtype do not fit. On the CPU also: the features
            hold NaN or Inf, or even float64 cannot resolve the value.
        WorkspaceError: The n x n matrices do not fit into the free memory.

    Example:
        >>> bx.nhsic(torch.randn(64, 512), torch.randint(0, 5, (64,)))
    """
    measure = NhsicMeasure(check_positive(eps, "eps"), linalg_dtype)
    return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes, sigma=sigma)


class NhsicMeasure(Measure):
    """nHSIC."""

    name = "nhsic"

    def __init__(self, eps: float = 1e-5, linalg_dtype: torch.dtype | None = None) -> None:
        self.eps = eps
        self.linalg_dtype = check_linalg_dtype(linalg_dtype)

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        factors = len(partners_of(*pairs, group.wanted()))
        algebra = linalg_dtype_for(group, self.linalg_dtype)
        if self.linalg_dtype is None and float64_serves(group, self.name, factors):
            algebra = torch.float64
        check_algebra_fits(group, self.name, algebra, factors)
        return torch.ops.bido_ext.nhsic(
            group.variables, group.parameters, group.kinds, *pairs, self.eps,
            algebra == torch.float64, group.wanted(),
        )[0]  # fmt: skip


def _default(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], eps: float, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n = variables[0].shape[0]
    c = eps * n
    dtype = torch.float64 if wide else group_dtype(variables, kinds)
    partners = partners_of(first, second, wanted)
    with torch.autocast(variables[0].device.type, enabled=False):
        factors: dict[int, Tensor] = {}  # of labels, of variables without gradient, and of partners
        linear: dict[int, Tensor] = {}  # inverses
        bad = [torch.zeros((), dtype=torch.bool, device=parameters.device) for _ in kinds]
        for i, kind in enumerate(kinds):
            if kind == LABELS:
                factors[i] = label_factor(variables[i], scalar(parameters[i]), c, dtype)
            elif kind == LINEAR:
                made = linear_factor(variables[i], c)
                factors[i], linear[i] = made.S.to(dtype), (made.rest / c).to(dtype)
                bad[i] = made.unresolved
            elif i not in wanted:
                E = gram_stack_of(variables, parameters, kinds, [i])
                factors[i] = factor(E, *factorise(E, c, dtype), c)[0]
                if kind != GRAM:
                    average_equal_rows(E[0], factors[i])
                bad[i] = is_unresolved(E[0], factors[i], kind, eps)
        values = parameters.new_zeros((len(first),))
        pending = _fill_values(values, range(len(first)), first, second, factors)
        stack = gram_stack_of(variables, parameters, kinds, wanted)
        inverses = stack.new_empty(stack.shape, dtype=dtype)
        for k, i in enumerate(wanted):
            if i in linear:
                inverses[k] = linear[i]
        by_gram = [k for k, i in enumerate(wanted) if i not in linear]
        for some in batches(n, len(by_gram)):
            batch = by_gram[some]
            whole = len(batch) == len(wanted)
            E = (
                stack
                if whole
                else stack[batch[0] : batch[0] + 1]
                if len(batch) == 1
                else stack[batch]
            )
            P, cholesky = factorise(E, c, dtype)
            S = factor(E, P, cholesky, c)
            for k, p, s in zip(batch, P, S, strict=True):
                if kinds[wanted[k]] != GRAM:
                    average_equal_rows(stack[k], s, p)
                bad[wanted[k]] = is_unresolved(stack[k], s, kinds[wanted[k]], eps)
            inverses[batch] = P
            here = {wanted[k]: s for k, s in zip(batch, S.unbind(), strict=True)}
            factors |= {i: s for i, s in here.items() if i in partners}
            pending = _fill_values(values, pending, first, second, factors | here)
        values = nan_where_unresolved(values, bad, first, second)
    kept = [factors[i] for i in partners]
    return values, stack, inverses, torch.stack(kept) if kept else inverses.new_empty((0, n, n))


def _fill_values(
    values: Tensor, pending: Sequence[int], first: Sequence[int], second: Sequence[int],
    factors: dict[int, Tensor],
) -> list[int]:  # fmt: skip
    """Writes the pairs whose factors are there; returns those that wait."""
    waiting = []
    for p in pending:
        if first[p] in factors and second[p] in factors:
            values[p] = inner_product(factors[first[p]], factors[second[p]])
        else:
            waiting.append(p)
    return waiting


def _default_backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, stack: Tensor, inverses: Tensor,
    factors: Tensor, kinds: Sequence[int], first: Sequence[int], second: Sequence[int], eps: float,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    n, partners = inverses.shape[-1], partners_of(first, second, wanted)
    grads: list[Tensor] = []
    with torch.autocast(parameters.device.type, enabled=False):
        for batch in batches(n, len(wanted)):
            T = partner_sum(grad, first, second, wanted[batch], partners, factors)
            if any(kinds[i] == LINEAR for i in wanted[batch]):
                for t, k in zip(T, range(batch.start, batch.stop), strict=True):
                    grads.append(
                        _gradient(t, k, variables, parameters, stack, inverses, kinds, eps, wanted)
                    )
                continue
            G = gradient_of_gram(inverses[batch], T, stack[batch], eps * n)
            grads += gradients_of(G, stack[batch], variables, parameters, kinds, wanted[batch])
    return grads


def _gradient(
    T: Tensor, k: int, variables: Sequence[Tensor], parameters: Tensor, stack: Tensor,
    inverses: Tensor, kinds: Sequence[int], eps: float, wanted: Sequence[int],
) -> Tensor:  # fmt: skip
    """Of one variable, ``wanted[k]``, with T the sum of the factors of its partners."""
    i = wanted[k]
    c = eps * len(T)
    if kinds[i] == LINEAR:
        made = linear_factor(variables[i], c)
        gradient = 2 * made.rest @ (T.double() @ made.PX)
        return (gradient - gradient.mean(0, keepdim=True)).to(variables[i].dtype)
    G = gradient_of_gram(inverses[k : k + 1], T[None], stack[k : k + 1], c)
    return gradients_of(G, stack[k : k + 1], variables, parameters, kinds, [i])[0]


def _fake(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], eps: float, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, dtype = variables[0].shape[0], group_dtype(variables, kinds)
    algebra = torch.float64 if wide else dtype
    return (
        parameters.new_empty((len(first),)),
        parameters.new_empty((len(wanted), n, n), dtype=dtype),
        parameters.new_empty((len(wanted), n, n), dtype=algebra),
        parameters.new_empty((len(partners_of(first, second, wanted)), n, n), dtype=algebra),
    )


def _in_float64(call: Function, again: Function, args: Any) -> Any:
    variables, _, kinds, *_, wide, _ = args
    if wide and (are_few(variables, kinds) or are_narrow(variables, kinds)):
        values, stack, *rest = again("nhsic", widened(variables, kinds), *args[1:])
        return values, mark(stack.to(group_dtype(variables, kinds))), *rest
    values, stack, *rest = result = call("nhsic", *args)
    wider = widened(variables, kinds, exact=True) if has_nan(values) else None
    if wider is None:
        return result
    values, _, *rest = again("nhsic", wider, *args[1:6], True, args[7])
    return values, mark(stack), *rest


def _backward_in_float64(call: Function, again: Function, args: Any) -> Any:
    grad, variables, parameters, stack, *made, kinds, first, second, eps, wanted = args
    settings = kinds, first, second, eps
    if marked(stack):  # what was made of it is of float64 entries
        wide = widened(variables, kinds, exact=True)
    else:
        grads = call("nhsic_backward", *args)
        if not any(map(marked, grads)):
            return grads
        wide = widened(variables, kinds)
    if wide is None:  # in float64 already: what the kernel leaves to the composition
        return _default_backward(*args)
    if marked(stack):
        chosen = [wide[i] for i in wanted], parameters[list(wanted)], [kinds[i] for i in wanted]
        stack = again("gram_stack", *chosen)
    else:
        stack, *made = again("nhsic", wide, parameters, *settings, True, wanted)[1:]
    given = grad, wide, parameters, stack, *made, *settings, wanted
    grads = again("nhsic_backward", *given)
    if any(map(marked, grads)):
        grads = _default_backward(*given)
    return in_dtypes(grads, variables, wanted)


define_op(
    "nhsic",
    "(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, float eps,"
    " bool wide, int[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    default=_default,
    fake=_fake,
    in_float64=_in_float64,
)
define_op(
    "nhsic_backward",
    "(Tensor grad, Tensor[] variables, Tensor parameters, Tensor stack, Tensor inverses, Tensor factors,"
    " int[] kinds, int[] first, int[] second, float eps, int[] wanted) -> Tensor[]",
    default=_default_backward,
    fake=lambda grad, variables, parameters, stack, inverses, factors, kinds, first, second, eps, wanted: [
        variables[i].new_empty(variables[i].shape) for i in wanted
    ],
    in_float64=_backward_in_float64,
)
refuse_double_backward("nhsic_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    variables, parameters, ctx.kinds, ctx.first, ctx.second, ctx.eps, _, ctx.wanted = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(parameters, *output[1:], *variables)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    parameters, stack, inverses, factors, *variables = ctx.saved_tensors
    result: list[Tensor | None] = [None] * len(variables)
    if grad is not None and ctx.wanted:
        grads = torch.ops.bido_ext.nhsic_backward(
            grad, variables, parameters, stack, inverses, factors, ctx.kinds, ctx.first, ctx.second,
            ctx.eps, ctx.wanted,
        )  # fmt: skip
        for i, g in zip(ctx.wanted, grads, strict=True):
            result[i] = g
    return result, *[None] * 7


define_derivative("nhsic", _backward, _setup_context)
