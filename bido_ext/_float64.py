# SPDX-License-Identifier: Apache-2.0
"""On the CPU: what float32 does not resolve is computed in float64.

A kernel answers NaN where float32 does not hold a Gram matrix (csrc/cpu/resolution.h, reference/resolution.py):
rows far apart against the bandwidth, outliers, tiny or huge scales, an eps that is small against the round-off.
Then the op runs once more with float64 features, and its backward as well; dtypes and shapes of the results
stay those of float32. What float64 does not resolve either stays NaN, and the public functions say why.

Other devices do not read values back: there the NaN stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext.reference.gram_stack import GRAM, LABELS
from bido_ext.reference.resolution import unresolved

Function = Callable[..., Any]


def resolved(
    name: str, function_of: Callable[[str, Sequence[Any], bool], Function], args: Sequence[Any]
) -> Any:
    """The result of the op ``name``, in float64 where float32 fails.

    Args:
        function_of: From a name, arguments and whether float32 has failed to the function that serves.
    """

    def call(name: str, *args: Any) -> Any:
        return function_of(name, args, False)(*args)

    def again(name: str, *args: Any) -> Any:
        return function_of(name, args, True)(*args)

    return _ATTEMPTS[name](call, again, name, args)


def _hsic(call: Function, again: Function, name: str, args: Any) -> Any:
    values, sums, kept = result = call(name, *args)
    wide = _widened(args[0], args[2]) if _has_nan(values) else None
    if wide is None:
        return result
    values, sums, _ = again(name, wide, *args[1:-1], 0)
    return values, sums, _mark(kept)


def _hsic_backward(call: Function, again: Function, name: str, args: Any) -> Any:
    grad, variables, parameters, sums, tiles, kinds, first, second, unbiased, tile, wanted = args
    wide = None
    if tiles.numel() > 0:
        wide = _widened(variables, kinds) if _marked(tiles) else None
        grads = call(name, *args) if wide is None else []
    else:  # the backward sees by itself that it makes what it cannot resolve
        grads = call(name, *args)
        wide = _widened(variables, kinds) if _marked(grads[0]) else None
    if wide is None:
        return grads
    _, sums, tiles = again("hsic", wide, parameters, kinds, first, second, unbiased, tile, 0)
    grads = again(
        name, grad, wide, parameters, sums, tiles, kinds, first, second, unbiased, tile, wanted
    )
    return _as_wanted(grads, variables, wanted)


def _nhsic(call: Function, again: Function, name: str, args: Any) -> Any:
    values, stack, *rest = result = call(name, *args)
    wide = _widened(args[0], args[2], exact=True) if _has_nan(values) else None
    if wide is None:
        return result
    return again(name, wide, *args[1:6], True, args[7])[0], _mark(stack), *rest


def _nhsic_backward(call: Function, again: Function, name: str, args: Any) -> Any:
    grad, variables, parameters, stack, _, _, kinds, *settings, wanted = args
    wide = _widened(variables, kinds, exact=True) if _marked(stack) else None
    if wide is None:
        return call(name, *args)
    kept = again("nhsic", wide, parameters, kinds, *settings, True, wanted)[1:]
    grads = again(name, grad, wide, parameters, *kept, kinds, *settings, wanted)
    return _as_wanted(grads, variables, wanted)


def _coco(call: Function, again: Function, name: str, args: Any) -> Any:
    values, stack, kept = result = call(name, *args)
    wide = _widened(args[0], args[2]) if _has_nan(values) else None
    if wide is None:
        return result
    return again(name, wide, *args[1:6], True, args[7])[0], _mark(stack), kept


def _coco_backward(call: Function, again: Function, name: str, args: Any) -> Any:
    grad, _, variables, parameters, stack, _, kinds, first, second, norm, _, wanted = args
    wide = _widened(variables, kinds) if _marked(stack) else None
    if wide is None:
        return call(name, *args)
    settings = kinds, first, second, norm, True, wanted
    values, stack, kept = again("coco", wide, parameters, *settings)
    grads = again(name, grad, values, wide, parameters, stack, kept, *settings)
    return _as_wanted(grads, variables, wanted)


def _gram_stack(call: Function, again: Function, name: str, args: Any) -> Any:
    variables, parameters, kinds = args
    stack = call(name, *args)
    for i in _unresolved_of(stack, kinds):
        stack[i] = again(name, [variables[i].double()], parameters[i : i + 1], [kinds[i]])[0]
    return stack


def _gram_stack_backward(call: Function, again: Function, name: str, args: Any) -> Any:
    grad, stack, variables, parameters, kinds = args
    failed = _unresolved_of(stack, kinds)
    if not failed:
        return call(name, *args)
    grads = []
    for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
        here = slice(i, i + 1)
        if i not in failed:
            grads += call(name, grad[here], stack[here], [x], parameters[here], [kind])
            continue
        wide = [x.double()], parameters[here], [kind]
        E = again("gram_stack", *wide)
        grads += [g.to(x.dtype) for g in again(name, grad[here].double(), E, *wide)]
    return grads


def _gaussian_gram(call: Function, again: Function, name: str, args: Any) -> Any:
    x, *rest = args
    K = call(name, *args)
    if x.dtype == torch.float64 or not bool(unresolved(K if args[2] else K - 1)):
        return K
    return again(name, x.double(), *rest).to(K.dtype)


def _gaussian_gram_backward(call: Function, again: Function, name: str, args: Any) -> Any:
    grad, K, x, gamma, minus_one = args
    if x.dtype == torch.float64 or not bool(unresolved(K if minus_one else K - 1)):
        return call(name, *args)
    wide = x.double()
    K = again("gaussian_gram", wide, gamma, minus_one)
    return again(name, grad.double(), K, wide, gamma, minus_one).to(x.dtype)


_ATTEMPTS: dict[str, Function] = {
    "hsic": _hsic,
    "hsic_backward": _hsic_backward,
    "nhsic": _nhsic,
    "nhsic_backward": _nhsic_backward,
    "coco": _coco,
    "coco_backward": _coco_backward,
    "gram_stack": _gram_stack,
    "gram_stack_backward": _gram_stack_backward,
    "gaussian_gram": _gaussian_gram,
    "gaussian_gram_backward": _gaussian_gram_backward,
}


def _widened(
    variables: Sequence[Tensor], kinds: Sequence[int], exact: bool = False
) -> list[Tensor] | None:
    """The variables in float64; None where they are, or (exact) where a Gram matrix was made in float32."""
    if any(v.dtype == torch.float64 for v in variables) or (exact and GRAM in kinds):
        return None
    return [v if kind == LABELS else v.double() for v, kind in zip(variables, kinds, strict=True)]


def _unresolved_of(stack: Tensor, kinds: Sequence[int]) -> list[int]:
    """The variables whose Gram matrices float32 does not hold."""
    if stack.dtype == torch.float64:
        return []
    both = zip(stack, kinds, strict=True)
    return [i for i, (E, kind) in enumerate(both) if kind < LABELS and bool(unresolved(E, kind))]


def _has_nan(values: Tensor) -> bool:
    return bool(values.isnan().any())


def _marked(kept: Tensor) -> bool:
    """Whether the first entry is NaN."""
    return kept.numel() > 0 and bool(kept[(0,) * kept.dim()].isnan())


def _mark(kept: Tensor) -> Tensor:
    """Lets the backward see that float32 did not do."""
    if kept.numel() > 0:
        kept[(0,) * kept.dim()] = float("nan")
    return kept


def _as_wanted(
    grads: Sequence[Tensor], variables: Sequence[Tensor], wanted: Sequence[int]
) -> list[Tensor]:
    return [g.to(variables[i].dtype) for g, i in zip(grads, wanted, strict=True)]
