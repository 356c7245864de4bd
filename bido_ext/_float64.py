# SPDX-License-Identifier: Apache-2.0
"""On the CPU: what float32 does not resolve is computed in float64.

A kernel answers NaN where float32 does not hold a Gram matrix (csrc/cpu/resolution.h, reference/resolution.py):
rows far apart against the bandwidth, outliers, tiny or huge scales, an eps that is small against the round-off.
Then the op runs once more with float64 features, and its backward as well; dtypes and shapes of the results
stay those of float32. What float64 does not resolve either stays NaN, and the public functions say why.

Other devices do not read values back: there the NaN stays.

Each op says in its own file how it runs again (``in_float64`` of define_op); here is what they share.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext.reference.gram_stack import GRAM, LABELS
from bido_ext.reference.resolution import unresolved

Function = Callable[..., Any]


def resolved(
    attempt: Function | None,
    name: str,
    function_of: Callable[[str, Sequence[Any], bool], Function],
    args: Sequence[Any],
) -> Any:
    """The result of the op ``name``, in float64 where float32 fails.

    Args:
        attempt: How the op is called: attempt(call, again, args), with call(name, *args) as the op is served
            and again(name, *args) for float64 features; None: as it is served.
        function_of: From a name, arguments and whether float32 has failed to the function that serves.
    """

    def call(name: str, *args: Any) -> Any:
        return function_of(name, args, _again.running)(*args)

    def again(name: str, *args: Any) -> Any:
        before, _again.running = _again.running, True
        try:
            return function_of(name, args, True)(*args)
        finally:
            _again.running = before

    if attempt is None:
        return call(name, *args)

    return attempt(call, again, args)


class _Again(threading.local):
    """Whether an op runs in float64 because float32 has failed: so do the ops it is composed of."""

    running = False


_again = _Again()


def widened(
    variables: Sequence[Tensor], kinds: Sequence[int], exact: bool = False
) -> list[Tensor] | None:
    """The variables in float64; None where they are, or (exact) where a Gram matrix was made in float32."""
    if any(v.dtype == torch.float64 for v in variables) or (exact and GRAM in kinds):
        return None
    return [v if kind == LABELS else v.double() for v, kind in zip(variables, kinds, strict=True)]


#: Where float64 costs no time beside the calls: float32 is not asked first.
FEW_ROWS, FEW_ENTRIES = 32, 2**13


def are_few(variables: Sequence[Tensor], kinds: Sequence[int]) -> bool:
    """Whether the features are computed in float64 from the start."""
    if len(variables[0]) > FEW_ROWS or GRAM in kinds:
        return False
    features = [v for v, kind in zip(variables, kinds, strict=True) if kind != LABELS]
    return sum(v.numel() for v in features) <= FEW_ENTRIES and not any(
        v.dtype == torch.float64 for v in features
    )


#: Of nhsic: samples for each column of the features from which the n x n algebra is long beside Gram matrices.
ROWS_OF_COLUMN = 4


def are_narrow(variables: Sequence[Tensor], kinds: Sequence[int]) -> bool:
    """Whether nhsic makes Gram matrices in float64 from the start: a second try costs all of the algebra."""
    features = [v for v, kind in zip(variables, kinds, strict=True) if kind < LABELS]
    columns = sum(v.shape[1] for v in features)
    return (
        GRAM not in kinds
        and ROWS_OF_COLUMN * columns <= len(variables[0])
        and all(v.dtype != torch.float64 for v in features)
    )


def unresolved_of(stack: Tensor, kinds: Sequence[int]) -> list[int]:
    """The variables whose Gram matrices float32 does not hold."""
    if stack.dtype == torch.float64:
        return []
    both = zip(stack, kinds, strict=True)
    return [i for i, (E, kind) in enumerate(both) if kind < LABELS and bool(unresolved(E, kind))]


def has_nan(values: Tensor) -> bool:
    return bool(values.isnan().any())


def marked(kept: Tensor) -> bool:
    """Whether the first entry is NaN, or overflowed as all weights of a variable do."""
    return kept.numel() > 0 and not math.isfinite(kept[(0,) * kept.dim()].item())


def mark(kept: Tensor) -> Tensor:
    """Lets the backward see that float32 did not do."""
    if kept.numel() > 0:
        kept[(0,) * kept.dim()] = float("nan")
    return kept


def in_dtypes(
    grads: Sequence[Tensor], variables: Sequence[Tensor], wanted: Sequence[int]
) -> list[Tensor]:
    return [g.to(variables[i].dtype) for g, i in zip(grads, wanted, strict=True)]
