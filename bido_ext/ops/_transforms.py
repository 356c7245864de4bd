# SPDX-License-Identifier: Apache-2.0
"""torch.func transforms (grad, vjp, jacrev, jvp, vmap) and forward mode over functions that call our ops.

The ops have a reverse rule for plain tensors. Here a whole public function becomes one autograd.Function that
PyTorch's transforms understand: below all transforms its tensors are plain again, and

reverse:  the vector-Jacobian product of the function, made again from its arguments (once more the forward)
forward:  of a 0-d result, <gradient, tangent>, by that same product
vmap:     a loop over the batch, since a dependence measure has no batched kernel

A second derivative is refused in words, as everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

Function: TypeAlias = Callable[..., Tensor]
_local = threading.local()


def transforms_active(*tensors: object, vmap: bool = True) -> bool:
    """Whether a torch.func transform is at work or a tensor carries a tangent; never under torch.compile.

    Args:
        vmap: Whether vmap alone counts; False for ops that batch by themselves.
    """
    if torch.compiler.is_compiling():
        return False
    named = {layer.key().name for layer in _functorch.get_interpreter_stack() or ()}
    if named - (set() if vmap else {"Vmap"}):
        return True
    return forward_ad._current_level >= 0 and any(
        isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


def within_product() -> bool:
    """Whether a function runs for a product with its gradient, which reaches its arguments alone."""
    return getattr(_local, "product", False)


def through_transforms(
    function: Function, *variables: Tensor, again: Function | None = None
) -> Tensor:
    """function(*variables) under the active transforms.

    Args:
        function: Of plain tensors, one tensor as result; called without a graph.
        variables: Its arguments, all of them tensors; integer ones have no gradient.
        again: What is differentiated instead, if ``function`` has side effects that happen once.

    Raises:
        RuntimeError: A second derivative is taken, or forward mode of a result that is not 0-d.
    """
    return _Transformed.apply(function, again or function, *variables)


class _Transformed(torch.autograd.Function):
    @staticmethod
    def forward(function: Function, again: Function, *variables: Tensor) -> Tensor:
        return function(*variables)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.function, *variables = inputs
        ctx.scalar = output.dim() == 0
        ctx.save_for_backward(*variables)
        ctx.save_for_forward(*variables)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        grads = _Product.apply(ctx.function, wanted, grad, *ctx.saved_tensors)
        result: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for i, g in zip(wanted, grads, strict=True):
            result[i] = g
        return None, None, *result

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        if not ctx.scalar:
            raise RuntimeError(
                "bido_ext: only functions with a 0-d result have a forward-mode derivative; take the "
                "reverse one, or the formulas of bido_ext.reference."
            )
        moved = [(i, t) for i, t in enumerate(tangents[2:]) if t is not None]
        dtype = torch.float64 if any(t.dtype == torch.float64 for _, t in moved) else torch.float32
        one = moved[0][1].new_ones((), dtype=dtype)
        grads = _Product.apply(ctx.function, [i for i, _ in moved], one, *ctx.saved_tensors)
        parts = [(g.to(dtype) * t).sum() for g, (_, t) in zip(grads, moved, strict=True)]
        return torch.stack(parts).sum()

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: Function,
        again: Function,
        *variables: Tensor,
    ) -> tuple[Tensor, int]:
        each = [
            _Transformed.apply(function, again, *_entry(variables, in_dims[2:], i))
            for i in range(info.batch_size)
        ]
        return torch.stack(each), 0


class _Product(torch.autograd.Function):
    """The gradients of the wanted variables for a gradient of the result."""

    @staticmethod
    def forward(
        function: Function, wanted: list[int], grad: Tensor, *variables: Tensor
    ) -> tuple[Tensor, ...]:
        _local.product = True
        try:
            with torch.enable_grad():
                own = [v.detach().requires_grad_(i in wanted) for i, v in enumerate(variables)]
                result = function(*own)
        finally:
            _local.product = False
        if not result.requires_grad:  # as with both weights 0
            return tuple(torch.zeros_like(own[i]) for i in wanted)
        asked = [own[i] for i in wanted]
        return torch.autograd.grad(result, asked, grad.to(result.dtype), materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _refuse_second()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _refuse_second()

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], function: Function, wanted: list[int], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        each = [
            _Product.apply(function, wanted, *_entry(tensors, in_dims[2:], i))
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(g) for g in zip(*each, strict=True)), (0,) * len(wanted)


def _entry(tensors: tuple[Tensor, ...], dims: tuple[int | None, ...], index: int) -> list[Tensor]:
    """One entry of the batch, of those tensors that have one."""
    return [
        t if dim is None else t.select(dim, index) for t, dim in zip(tensors, dims, strict=True)
    ]


def _refuse_second() -> Any:
    raise RuntimeError(
        "bido_ext: a second derivative is not supported. Take the first one alone, or use the formulas of "
        "bido_ext.reference, which can be differentiated any number of times."
    )
