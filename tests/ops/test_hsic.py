# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import FLOORS, each_wide_dtype, features, gram, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.hsic import _default, _default_backward, gram_hsic

Implementation = tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": (torch.ops.bido_ext.hsic, torch.ops.bido_ext.hsic_backward),
    "reference": (_default, _default_backward),
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_case = pytest.mark.parametrize(
    ("n", "unbiased"),
    [(n, False) for n in (2, 3, 63, 64, 331)] + [(n, True) for n in (4, 5, 64, 331)],
)


def unbiased_by_pairs(K: Tensor, L: Tensor) -> float:
    """The estimator as U-centered matrices (Szekely and Rizzo 2014): another road to Song's form."""
    n = K.shape[0]

    def u_center(A: Tensor) -> Tensor:
        A = A - torch.diag(A.diagonal())
        rows = A.sum(1)
        A = A - rows[:, None] / (n - 2) - rows[None] / (n - 2) + A.sum() / ((n - 1) * (n - 2))
        return A - torch.diag(A.diagonal())

    return float((u_center(K) * u_center(L)).sum() / (n * (n - 3)))


@each_implementation
@each_wide_dtype
@each_case
def test_forward(implementation: str, dtype: torch.dtype, n: int, unbiased: bool) -> None:
    K, L = gram(n, dtype), gram(n, dtype, seed=5)
    value, k_sums, l_sums = IMPLEMENTATIONS[implementation][0](K, L, unbiased)
    truth = reference.hsic(K.double(), L.double(), unbiased)
    assert value.dtype == dtype
    # The one-pass sums accumulate in float64: float32 Gram matrices lose only their last rounding.
    assert relative_error(value, truth) <= (1e-10 if dtype == torch.float64 else 2e-5)
    off = K.double() - torch.diag(K.diagonal()).double() if unbiased else K.double()
    torch.testing.assert_close(k_sums, off.sum(1), rtol=1e-9, atol=1e-12)
    assert l_sums.dtype == torch.float64


def test_unbiased_agrees_with_u_centering() -> None:
    K, L = gram(23), gram(23, seed=5)
    assert float(gram_hsic(K, L, True)) == pytest.approx(unbiased_by_pairs(K, L), rel=1e-10)


@each_implementation
@each_wide_dtype
@each_case
def test_backward(implementation: str, dtype: torch.dtype, n: int, unbiased: bool) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    K, L = gram(n, dtype), gram(n, dtype, seed=5)
    _, _, l_sums = forward(K, L, unbiased)
    one = torch.ones((), dtype=dtype)
    leaf = K.double().requires_grad_()
    symmetrised = (leaf + leaf.T) / 2
    (truth,) = torch.autograd.grad(reference.hsic(symmetrised, L.double(), unbiased), leaf)
    value = backward(one, L, l_sums, unbiased)
    assert relative_error(value, truth) <= 1e-10 + 4 * FLOORS[dtype]


def test_non_contiguous() -> None:
    K, L = gram(30, torch.float32), gram(30, torch.float32, seed=5)
    strided = torch.stack([K, L], dim=2)
    value = torch.ops.bido_ext.hsic(strided[..., 0], strided[..., 1], False)[0]
    assert torch.equal(value, torch.ops.bido_ext.hsic(K, L, False)[0])


def test_gradcheck() -> None:
    x, y = features(7, 3).requires_grad_(), features(7, 2, seed=3).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0])
    for estimator in ("biased", "unbiased"):
        for kernel in (bx.Gaussian(0.5), bx.Linear(), bx.InverseMultiquadric()):
            assert torch.autograd.gradcheck(
                lambda a, b, k=kernel, e=estimator: bx.hsic(a, b, k, k, estimator=e), (x, y)
            )
        assert torch.autograd.gradcheck(
            lambda a, e=estimator: bx.hsic(a, labels, bx.Gaussian(0.5), estimator=e), (x,)
        )


def test_opcheck() -> None:
    for dtype in (torch.float64, torch.float32):
        K, L = gram(6, dtype).requires_grad_(), gram(6, dtype, seed=5)
        for unbiased in (False, True):
            torch.library.opcheck(torch.ops.bido_ext.hsic, (K, L, unbiased))
            sums = L.sum(1, dtype=torch.float64)
            one = torch.ones((), dtype=dtype)
            torch.library.opcheck(torch.ops.bido_ext.hsic_backward, (one, L, sums, unbiased))


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.hsic(a, y), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.hsic(x, y))


def test_linear_hsic_is_the_squared_cross_covariance() -> None:
    x, y = features(40, 6), features(40, 3, seed=2)
    covariance = (x - x.mean(0)).T @ (y - y.mean(0)) / 39
    value = bx.hsic(x, y, bx.Linear(), bx.Linear())
    assert float(value) == pytest.approx(float(covariance.square().sum()), rel=1e-10)


def test_independent_variables_have_unbiased_hsic_around_zero() -> None:
    values = [
        float(
            bx.hsic(torch.randn(50, 2), torch.randn(50, 2), bx.Gaussian(1.0), estimator="unbiased")
        )
        for _ in range(60)
    ]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    assert abs(mean) < 4 * spread / len(values) ** 0.5
    assert min(values) < 0 < max(values)


def test_one_pass_formula_survives_the_bandwidth_of_bido() -> None:
    x, z = features(256, 500, torch.float32), features(256, 300, torch.float32, seed=9)
    truth = bx.hsic(x.double(), z.double())
    assert relative_error(bx.hsic(x, z), truth) < 1e-5
    K, L = bx.gaussian_gram(x), bx.gaussian_gram(z)  # with exp instead of expm1
    k, l_sums, n = K.sum(1), L.sum(1), 256
    naive = ((K * L).sum() - 2 / n * k @ l_sums + K.sum() * L.sum() / n**2) / (n - 1) ** 2
    assert relative_error(naive, truth) > 1e-2  # why the ops carry K - 1
