# SPDX-License-Identifier: Apache-2.0
"""Shared by the op tests: sample inputs, float64 truth, and the error budget.

The budget: an implementation may be at most twice as far from the float64 truth as the textbook in
the same dtype, plus a floor per dtype. Truth is computed from the *rounded* inputs, so half-precision
inputs are held to the float32 floor of their float32 accumulation.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FLOORS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}
SHAPES = [(1, 3), (2, 1), (2, 4096), (63, 37), (64, 64), (65, 5), (130, 129), (257, 33), (530, 12)]


def features(n: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Image-like rows: noise around a brightness offset of each sample."""
    generator = torch.Generator().manual_seed(seed + 1000 * n + d)
    offset = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(n, d, generator=generator, dtype=torch.float64)
    return (0.6 * offset + 0.4 * noise).to(dtype)


def symmetric(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A random symmetric matrix."""
    generator = torch.Generator().manual_seed(seed + n)
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return ((a + a.T) / 2).to(dtype)


def gram(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A Gaussian Gram matrix up to centering, as the measures receive it."""
    from bido_ext.reference import gaussian_gram

    return gaussian_gram(features(n, 7, seed=seed), 0.3, True).to(dtype)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth| in the Frobenius norm; the absolute error where the truth is 0."""
    difference = (value.double() - truth.double()).norm()
    scale = truth.double().norm()
    return float(difference / scale) if scale > 0 else float(difference)


def assert_within_budget(value: Tensor, rival: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    """value may be twice as wrong as the same-dtype textbook, plus the dtype's floor."""
    error, budget = relative_error(value, truth), 2 * relative_error(rival, truth) + FLOORS[dtype]
    assert error <= budget, f"relative error {error:.2e} exceeds the budget {budget:.2e}"


def readable(value: object) -> str | None:
    """Test ids such as float32 and 63x37."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
        return "x".join(map(str, value))
    return None


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=readable)
each_wide_dtype = pytest.mark.parametrize("dtype", DTYPES[:2], ids=readable)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=readable)
