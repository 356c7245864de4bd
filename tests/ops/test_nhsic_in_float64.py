# SPDX-License-Identifier: Apache-2.0
"""Where nhsic of float32 features runs in float64 on a CPU, and that it runs there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from oracle import relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext.serving import on_cpu


def inputs(n: int, d: int, partner: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator).relu()
    if partner == "labels":
        return x, torch.arange(n) % 10
    return x, torch.randn(n, 6, generator=generator) + x[:, :6]


def errors(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Of the value and of the gradient, against float64 features."""
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    value, truth = bx.nhsic(leaf, y), bx.nhsic(wide, y.double() if y.is_floating_point() else y)
    value.backward()
    truth.backward()
    error = abs(float(value.detach()) / float(truth.detach()) - 1)
    return error, relative_error(leaf.grad, wide.grad)


@pytest.mark.parametrize("partner", ["labels", "features"])
@pytest.mark.parametrize(("n", "d"), [(64, 8), (300, 60), (600, 6)])
def test_few_columns_have_entries_in_float64(n: int, d: int, partner: str) -> None:
    """Twice the time, for 2e-5 to 9e-5 in the gradient, where float32 entries were tried first."""
    value, gradient = errors(*inputs(n, d, partner))
    assert value < 2e-7
    assert gradient < 2e-7


@pytest.mark.slow
@pytest.mark.parametrize("partner", ["labels", "features"])
def test_many_samples(partner: str) -> None:
    """1.2e-4 off in float32 algebra."""
    value, gradient = errors(*inputs(2500, 8, partner))
    assert value < 2e-7
    assert gradient < 2e-7


@pytest.mark.parametrize("partner", ["labels", "features"])
@pytest.mark.parametrize("d", [256, 1024])
def test_many_columns(d: int, partner: str) -> None:
    """Float32 entries where they do: 6e-5 off, in the gradient, where more of their round-off was allowed."""
    value, gradient = errors(*inputs(512, d, partner))
    assert value < 1e-5
    assert gradient < 5e-5


@pytest.mark.parametrize("partner", ["labels", "features"])
@pytest.mark.parametrize("d", [8, 40])
def test_the_backward_factorises_nothing(
    d: int, partner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    function_of = on_cpu.function_of

    def counted(name: str, args: Sequence[Any], failed: bool) -> Any:
        calls.append(name)
        return function_of(name, args, failed)

    monkeypatch.setattr(on_cpu, "function_of", counted)
    x, y = inputs(100, d, partner)
    value = bx.nhsic(x.requires_grad_(), y)
    calls.clear()
    value.backward()
    assert "nhsic" not in calls
