# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import (
    FLOORS,
    assert_within_budget,
    each_dtype,
    each_shape,
    features,
    relative_error,
    symmetric,
)
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops import gaussian_gram as public
from bido_ext.ops.gaussian_gram import _default, _default_backward

Implementation = tuple[Callable[..., Tensor], Callable[..., Tensor]]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": (torch.ops.bido_ext.gaussian_gram, torch.ops.bido_ext.gaussian_gram_backward),
    "reference": (_default, _default_backward),
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_gamma = pytest.mark.parametrize("gamma", [1e-6, 0.02, 3.0, 1e6])


def gamma_tensor(gamma: float) -> Tensor:
    return torch.tensor(gamma, dtype=torch.float64)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@each_implementation
@each_dtype
@each_shape
@each_gamma
@pytest.mark.parametrize("minus_one", [False, True])
def test_forward(
    implementation: str, dtype: torch.dtype, shape: tuple[int, int], gamma: float, minus_one: bool
) -> None:
    x = features(*shape, dtype)
    forward, _ = IMPLEMENTATIONS[implementation]
    value = forward(x, gamma_tensor(gamma), minus_one)
    truth = reference.gaussian_gram(x.double(), gamma, minus_one)
    rival = reference.gaussian_gram(x.to(wide(dtype)), gamma, minus_one)
    assert value.dtype == wide(dtype)
    assert_within_budget(value, rival, truth, wide(dtype))
    if implementation == "native":  # BLAS does not promise it to the textbook
        assert torch.equal(value, value.T)
    assert torch.equal(value.diagonal(), torch.full_like(value[0], 0.0 if minus_one else 1.0))


@each_implementation
@each_dtype
@each_shape
@each_gamma
@pytest.mark.parametrize("minus_one", [False, True])
def test_backward(
    implementation: str, dtype: torch.dtype, shape: tuple[int, int], gamma: float, minus_one: bool
) -> None:
    x = features(*shape, dtype)
    grad = torch.randn(shape[0], shape[0], dtype=torch.float64) / gamma  # keeps float16 in range
    forward, backward = IMPLEMENTATIONS[implementation]
    saved = forward(x, gamma_tensor(gamma), minus_one)
    value = backward(grad.to(wide(dtype)), saved, x, gamma_tensor(gamma), minus_one)

    def textbook(working: torch.dtype, minus_one: bool) -> Tensor:
        leaf = x.to(working).requires_grad_()
        K = reference.gaussian_gram(leaf, gamma, minus_one)
        return torch.autograd.grad(K, leaf, grad.to(wide(dtype)).to(working))[0]

    assert value.dtype == dtype
    # The same in exact arithmetic, but small K lose digits in K - 1: long doubles are 1e-14 from this truth.
    truth = textbook(torch.float64, False)
    assert_within_budget(value, textbook(wide(dtype), minus_one), truth, dtype)


@each_implementation
def test_non_contiguous_and_overlapping_rows(implementation: str) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    base = features(40, 60, torch.float32)
    for x in (base.T, base[::2, ::3], base[:, 5:9], base[:1].expand(9, 60)):
        gamma = gamma_tensor(0.1)
        K = forward(x, gamma, False)
        torch.testing.assert_close(K, forward(x.contiguous(), gamma, False))
        grad = symmetric(x.shape[0], torch.float32)
        torch.testing.assert_close(
            backward(grad.T, K, x, gamma, False),
            backward(grad.T.contiguous(), K, x.contiguous(), gamma, False),
        )


@each_implementation
def test_duplicate_rows_have_distance_zero(implementation: str) -> None:
    forward, _ = IMPLEMENTATIONS[implementation]
    x = features(5, 300, torch.float32)[[0, 1, 0, 2, 1]]
    K = forward(x, gamma_tensor(1.0), False)
    assert relative_error(K, reference.gaussian_gram(x.double(), 1.0)) < 1e-5
    assert float(K[0, 2]) == pytest.approx(1.0, abs=1e-5)
    assert float(K.max()) <= 1.0


@each_implementation
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_features_show_everywhere_they_reach(implementation: str, bad: float) -> None:
    forward, _ = IMPLEMENTATIONS[implementation]
    x = features(70, 9, torch.float32)
    x[66, 4] = bad
    assert not torch.isfinite(forward(x, gamma_tensor(0.1), True)).any()


def test_deterministic_across_runs_and_threads() -> None:
    x = features(300, 700, torch.float32)
    first = torch.ops.bido_ext.gaussian_gram(x, gamma_tensor(0.01), True)
    assert torch.equal(first, torch.ops.bido_ext.gaussian_gram(x, gamma_tensor(0.01), True))


def test_expm1_keeps_the_digits_of_small_distances() -> None:
    x = features(64, 100, torch.float32)
    E = torch.ops.bido_ext.gaussian_gram(x, gamma_tensor(1e-9), True)
    truth = reference.gaussian_gram(x.double(), 1e-9, True)
    off = ~torch.eye(64, dtype=torch.bool)
    elementwise = ((E.double() - truth).abs() / truth.abs())[off]
    assert float(elementwise.max()) < 1e-4  # exp(.) - 1 would lose every digit: |E| < 1e-7
    assert relative_error(E, truth) < FLOORS[torch.float32]


def test_gradcheck() -> None:
    for n, d in [(2, 1), (5, 3), (9, 2)]:
        x = features(n, d).requires_grad_()
        assert torch.autograd.gradcheck(lambda t: bx.gaussian_gram(t, sigma=0.7), (x,))


def test_opcheck() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = features(6, 4, dtype).requires_grad_()
        torch.library.opcheck(torch.ops.bido_ext.gaussian_gram, (x, gamma_tensor(0.3), True))
        K = bx.gaussian_gram(x.detach())
        torch.library.opcheck(
            torch.ops.bido_ext.gaussian_gram_backward,
            (torch.randn_like(K), K, x.detach(), gamma_tensor(0.3), False),
        )


def test_compile() -> None:
    x = features(12, 5, torch.float32)

    def loss(t: Tensor) -> Tensor:
        return bx.gaussian_gram(t, sigma=1.0).sin().sum()

    eager, compiled = (x.clone().requires_grad_() for _ in range(2))
    loss(eager).backward()
    torch.compile(loss, fullgraph=True)(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-5, atol=1e-7)


def test_double_backward_is_refused() -> None:
    x = features(4, 3).requires_grad_()
    (grad,) = torch.autograd.grad(public(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative is not supported"):
        grad.sum().backward()


def test_public_function_scales_by_dimension() -> None:
    x = features(7, 11)
    torch.testing.assert_close(bx.gaussian_gram(x), reference.gaussian_gram(x, 1 / (50 * 11)))
    unscaled = bx.gaussian_gram(x, sigma=2.0, scale_by_dim=False)
    torch.testing.assert_close(unscaled, reference.gaussian_gram(x, 1 / 8))
    as_tensor = bx.gaussian_gram(x, sigma=torch.tensor(2.0), scale_by_dim=False)
    torch.testing.assert_close(as_tensor, unscaled)
