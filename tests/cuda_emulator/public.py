# SPDX-License-Identifier: Apache-2.0
"""The public functions on a CPU, served by the emulated CUDA kernels, where NaN stays as it does on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import property_cases as cases
import pytest
import torch

from bido_ext.serving import on_cpu
from bido_ext.serving.row import default_of, named, row_of


def serve(functions: Mapping[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the emulated kernels serve what they take, and compositions the rest; no second try in float64."""

    def function_of(name: str, args: Sequence[Any], failed: bool) -> Any:
        kernel, taken = row_of(name).get("cuda"), named(name, args)
        takes = name in functions and kernel is not None and kernel.refusal(taken) is None
        return functions[name] if takes else default_of(name)

    def once(_: object, name: str, function_of: Callable[..., Any], args: Sequence[Any]) -> Any:
        return function_of(name, args, False)(*args)

    monkeypatch.setattr(on_cpu, "function_of", function_of)
    monkeypatch.setattr(on_cpu, "resolved", once)


def worst_ratio(case: cases.Case) -> tuple[float, str]:
    """As property_cases.worst_ratio, where NaN is a refusal too.

    A value and its gradient are refused each for itself: float32 may hold one without the other.
    """
    x, y = cases.tensors(case)
    result = cases.computed(case, x, y)
    if isinstance(result, str):
        # The second is what a CPU says where a kernel has answered with NaN.
        assert cases.refused_with_reason(result) or "is not finite although" in result, result
        return 0.0, "refused"
    value, gradient = result
    true = cases.truth(case, x, y)
    if not bool(torch.isfinite(value)):
        return 0.0, "refused"
    if not math.isfinite(true.value) or true.bound == 0:  # 0/0 of constant features, defined as 0
        assert float(value) == 0
        assert not bool(gradient.nan_to_num().any())
        return 0.0, "constant"
    ratio, what = cases.value_ratio(case, value, true), "value"
    if not bool(torch.isfinite(gradient).all() and torch.isfinite(true.gradient).all()):
        return ratio, "gradient refused" if ratio <= 1 else what
    of_gradient = cases.gradient_ratio(case, x, gradient, true)
    return (of_gradient, "gradient") if of_gradient > ratio else (ratio, what)
