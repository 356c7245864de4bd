# SPDX-License-Identifier: Apache-2.0
"""The forms of PyTorch's products on near and on equal rows, which serve on GPUs without a second try in float64."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from interpreter import skip_where_the_interpreter_is_broken
from oracle import relative_error
from torch import Tensor

from bido_ext.reference.kernel_entries import ENERGY, GAUSSIAN, INVERSE_MULTIQUADRIC, LAPLACIAN
from bido_ext.serving.implementations import functions_of

fused = importlib.import_module("bido_ext.composed._fused")


@pytest.fixture(params=["eager", "fused"], autouse=True)
def _epilogue(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "fused":
        skip_where_the_interpreter_is_broken()
        resolution = importlib.import_module("bido_ext.triton_kernels.resolution")
        if not resolution.INTERPRETED:
            pytest.skip("Triton's interpreter is off")
        monkeypatch.setattr(fused, "IN_THE_INTERPRETER", True)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [LAPLACIAN, ENERGY])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_near_rows_of_kernels_that_are_not_smooth(kind: int, offset: float) -> None:
    """One column: pairs at 1e-4 of the spread. Distances of products: 9e-4 off."""
    x, n = normal(40, 1) + offset, 40
    f: Any = functions_of("gram_stack", "composed")
    p = torch.ones(1, dtype=torch.float64)
    wide = x.double()
    D = (wide[:, None] - wide[None]).abs()[..., 0]
    wanted = torch.expm1(-D) if kind == LAPLACIAN else -D
    E = f["gram_stack"]([x], p, [kind])
    assert relative_error(E[0], wanted) < 1e-6
    incoming = normal(1, n, n)
    slope = torch.where(D > 0, (1 + wanted if kind == LAPLACIAN else 1) / D.clamp_min(1e-30), 0.0)
    A = slope * (incoming[0] + incoming[0].T)
    (grad,) = f["gram_stack_backward"](incoming, E, [x], p, [kind])
    assert (
        relative_error(
            grad, A @ (wide - wide.mean()) - A.sum(1, keepdim=True) * (wide - wide.mean())
        )
        < 2e-5
    )


@pytest.mark.parametrize("kind", [GAUSSIAN, INVERSE_MULTIQUADRIC, LAPLACIAN, ENERGY])
def test_equal_rows_have_equal_entries(kind: int) -> None:
    x = 3 * normal(30, 7)
    x[10::3] = x[0]
    f: Any = functions_of("gram_stack", "composed")
    E = f["gram_stack"]([x], torch.ones(1, dtype=torch.float64), [kind])[0]
    assert not bool(E[10::3, 10::3].any())
    assert torch.equal(E[0], E[10])


def test_overflow_is_not_a_distance_of_0() -> None:
    x = normal(12, 3) * 1e30
    f: Any = functions_of("gram_stack", "composed")
    E = f["gram_stack"]([x], torch.ones(1, dtype=torch.float64), [GAUSSIAN])[0]
    apart = ~torch.eye(12, dtype=torch.bool)
    assert not bool((E[apart] == 0).any())
