# SPDX-License-Identifier: Apache-2.0
"""The Gram matrices up to centering of a group of variables, in one call.

variables: m times [n, d_v] or labels [n]  ->  stack: [m, n, n]
grad_v = (A - diag(A 1)) x_v,  A = 4 gamma sym(grad) o K for the Gaussian kernel
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext._float64 import Function, are_few, marked, unresolved_of, widened
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops.group import Group
from bido_ext.reference.gram_stack import GRAM, gram_backward, group_dtype


def gram_stack(group: Group) -> Tensor:
    """(m, n, n): the Gram matrix of each variable up to centering (K - 1 for the Gaussian kernel)."""
    return torch.ops.bido_ext.gram_stack(group.variables, group.parameters, group.kinds)


def _default(variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int]) -> Tensor:
    return torch.stack(reference.gram_stack(variables, parameters, kinds))


def _default_backward(
    grad: Tensor,
    stack: Tensor,
    variables: Sequence[Tensor],
    parameters: Tensor,
    kinds: Sequence[int],
) -> list[Tensor]:
    with torch.autocast(grad.device.type, enabled=False):
        return [
            gram_backward(grad[i], stack[i], v, parameters[i], kind, stack.dtype).to(v.dtype)
            for i, (v, kind) in enumerate(zip(variables, kinds, strict=True))
        ]


def _fake(variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int]) -> Tensor:
    n = variables[0].shape[0]
    return parameters.new_empty((len(kinds), n, n), dtype=group_dtype(variables, kinds))


def _in_float64(call: Function, again: Function, args: Any) -> Any:
    variables, parameters, kinds = args
    if are_few(variables, kinds):
        wide = widened(variables, kinds)
        return again("gram_stack", wide, parameters, kinds).to(group_dtype(variables, kinds))
    stack = call("gram_stack", *args)
    for i in unresolved_of(stack, kinds):
        one = [variables[i].double()], parameters[i : i + 1], [kinds[i]]
        stack[i] = again("gram_stack", *one)[0]
    return stack


def _backward_in_float64(call: Function, again: Function, args: Any) -> Any:
    grad, stack, variables, parameters, kinds = args
    few = are_few(variables, kinds)
    failed = list(range(len(kinds))) if few else unresolved_of(stack, kinds)
    grads: list[Tensor | None] = [None] * len(kinds)
    if not failed:
        grads = call("gram_stack_backward", *args)
    for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
        here = slice(i, i + 1)
        g = grads[i]
        if g is None and i not in failed:
            one = grad[here], stack[here], [x], parameters[here], [kind]
            (g,) = call("gram_stack_backward", *one)
        if g is None or (x.dtype != torch.float64 and marked(g)):
            wide = [x.double()], parameters[here], [kind]
            E = again("gram_stack", *wide)
            (g,) = again("gram_stack_backward", grad[here].double(), E, *wide)
        grads[i] = g.to(x.dtype)
    return grads


define_op(
    "gram_stack",
    "(Tensor[] variables, Tensor parameters, int[] kinds) -> Tensor",
    default=_default,
    fake=_fake,
    in_float64=_in_float64,
)
define_op(
    "gram_stack_backward",
    "(Tensor grad, Tensor stack, Tensor[] variables, Tensor parameters, int[] kinds) -> Tensor[]",
    default=_default_backward,
    fake=lambda grad, stack, variables, parameters, kinds: [
        v.new_empty(v.shape) for v in variables
    ],
    in_float64=_backward_in_float64,
)
refuse_double_backward("gram_stack_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    variables, parameters, ctx.kinds = inputs
    ctx.save_for_backward(output, parameters, *variables)


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor | None], None, None]:
    stack, parameters, *variables = ctx.saved_tensors
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[0]) if needed]
    result: list[Tensor | None] = [None] * len(variables)
    if wanted:
        grads = gradients_of(
            _take(grad, wanted), _take(stack, wanted), variables, parameters, ctx.kinds, wanted
        )
        for i, g in zip(wanted, grads, strict=True):
            result[i] = g
    return result, None, None


def _take(stack: Tensor, indices: Sequence[int]) -> Tensor:
    """Some matrices of a stack, without an index tensor that would have to travel to the device."""
    if list(indices) == list(range(len(stack))):
        return stack
    return torch.stack([stack[i] for i in indices])


define_derivative("gram_stack", _backward, _setup_context)


def gram_stack_of(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], indices: Sequence[int]
) -> Tensor:
    """The Gram matrices of some variables of a group, (len(indices), n, n)."""
    if not indices:
        n = variables[0].shape[0]
        return parameters.new_empty((0, n, n), dtype=group_dtype(variables, kinds))
    return torch.ops.bido_ext.gram_stack(
        [variables[i] for i in indices],
        torch.stack([parameters[i] for i in indices]),
        [kinds[i] for i in indices],
    )


def gradients_of(
    grad: Tensor, stack: Tensor, variables: Sequence[Tensor], parameters: Tensor,
    kinds: Sequence[int], indices: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    """Gradients of some variables of a group from those of their Gram matrices, ``grad`` and ``stack``."""
    features = [k for k, i in enumerate(indices) if kinds[i] != GRAM]
    if len(features) < len(indices):  # the gradient of a Gram matrix is that of the stack
        rest = iter(
            gradients_of(
                _take(grad, features),
                _take(stack, features),
                variables,
                parameters,
                kinds,
                [indices[k] for k in features],
            )
            if features
            else []
        )
        return [next(rest) if k in features else grad[k].clone() for k in range(len(indices))]
    return torch.ops.bido_ext.gram_stack_backward(
        grad, stack, [variables[i] for i in indices],
        torch.stack([parameters[i] for i in indices]), [kinds[i] for i in indices],
    )  # fmt: skip
