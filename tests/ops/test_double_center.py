# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import assert_within_budget, each_wide_dtype
from torch import Tensor

import bido_ext as bx
from bido_ext import reference

IMPLEMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "native": torch.ops.bido_ext.double_center,
    "reference": reference.double_center,
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@each_implementation
@each_wide_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 300, 777])
def test_forward(implementation: str, dtype: torch.dtype, n: int) -> None:
    K = torch.randn(n, n, dtype=torch.float64).to(dtype) + 3  # not symmetric
    H = torch.eye(n, dtype=torch.float64) - 1 / n
    truth = H @ K.double() @ H
    value = IMPLEMENTATIONS[implementation](K)
    assert value.dtype == dtype
    assert_within_budget(value, reference.double_center(K), truth, dtype)


@each_implementation
def test_backward(implementation: str) -> None:
    K = torch.randn(31, 31, dtype=torch.float64).requires_grad_()
    grad = torch.randn(31, 31, dtype=torch.float64)
    (expected,) = torch.autograd.grad(reference.double_center(K), K, grad)
    torch.testing.assert_close(IMPLEMENTATIONS[implementation](grad), expected)
    (actual,) = torch.autograd.grad(bx.double_center(K), K, grad)
    torch.testing.assert_close(actual, expected)


@each_implementation
def test_non_contiguous(implementation: str) -> None:
    K = torch.randn(40, 40)
    center = IMPLEMENTATIONS[implementation]
    torch.testing.assert_close(center(K.T), center(K.T.contiguous()), rtol=0, atol=1e-6)
    torch.testing.assert_close(center(K[::2, 1::2]), center(K[::2, 1::2].contiguous()))


def test_gradcheck() -> None:
    K = torch.randn(6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(bx.double_center, (K,))
    assert torch.autograd.gradgradcheck(bx.double_center, (K,))


def test_opcheck() -> None:
    for dtype in (torch.float64, torch.float32):
        K = torch.randn(5, 5, dtype=dtype).requires_grad_()
        torch.library.opcheck(torch.ops.bido_ext.double_center, (K,))


def test_compile() -> None:
    K = torch.randn(9, 9)
    compiled = torch.compile(lambda t: bx.double_center(t).square(), fullgraph=True)
    torch.testing.assert_close(compiled(K), bx.double_center(K).square())
