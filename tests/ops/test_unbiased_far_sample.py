# SPDX-License-Identifier: Apache-2.0
"""The unbiased estimator beside one far sample, whose share off-diagonal centering takes away, in 50 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch
from compositions import serve_compositions
from oracle import relative_error
from torch import Tensor

import bido_ext as bx

SERVED_BY = pytest.mark.parametrize("served_by", ["kernel", "composition"])


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def _distances(x: Tensor, beta: float) -> mpmath.matrix:
    rows = [[mpmath.mpf(v) for v in row] for row in x.double().tolist()]
    power = mpmath.mpf(beta) / 2
    K = mpmath.zeros(len(rows))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if i != j:
                K[i, j] = -(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** power)
    return K


def _u_centered(K: mpmath.matrix) -> mpmath.matrix:
    n = K.rows
    sums = [sum(K[i, j] for j in range(n)) for i in range(n)]
    total = sum(sums) / ((n - 1) * (n - 2))
    U = mpmath.zeros(n)
    for i in range(n):
        for j in range(n):
            if i != j:
                U[i, j] = K[i, j] - (sums[i] + sums[j]) / (n - 2) + total
    return U


def in_50_digits(x: Tensor, y: Tensor, beta: float) -> tuple[float, Tensor]:
    """Unbiased HSIC with the Energy kernel and its gradient by x."""
    with mpmath.workdps(50):
        n, d = x.shape
        K = _distances(x, beta)
        U, V = _u_centered(K), _u_centered(_distances(y, beta))
        count = n * (n - 3)
        value = sum(U[i, j] * V[i, j] for i in range(n) for j in range(n)) / count
        gradient = torch.zeros(n, d, dtype=torch.float64)
        rows = x.double().tolist()
        for i in range(n):
            for k in range(d):
                parts = [
                    V[i, j] * (-K[i, j]) ** (1 - mpmath.mpf(2) / beta)
                    * (mpmath.mpf(rows[j][k]) - mpmath.mpf(rows[i][k]))
                    for j in range(n)
                    if K[i, j] != 0
                ]  # fmt: skip
                gradient[i, k] = float(2 * beta * sum(parts) / count)
        return float(value), gradient


@SERVED_BY
@pytest.mark.parametrize("far", [1e6, 1e8])
@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("beta", [1.0, 1.5])
def test_energy(
    n: int, far: float, beta: float, served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 its distances square to more than its digits; the kernel takes those to a central sample off."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x, y = normal(n, 2), normal(n, 3, 1)
    x[1] += far
    y[1] -= far
    value, gradient = in_50_digits(x, y, beta)
    leaf = x.clone().requires_grad_()
    result = bx.hsic(leaf, y, bx.Energy(beta), bx.Energy(beta), estimator="unbiased")
    result.backward()
    assert relative_error(result.detach(), torch.tensor(value).double()) < 1e-6
    assert relative_error(leaf.grad, gradient) < 1e-5
    squared = bx.distance_covariance(x, y, estimator="unbiased", beta=beta)
    assert relative_error(squared, torch.tensor(value).double()) < 1e-6


@pytest.mark.parametrize("workspace_bytes", [None, 1 << 20], ids=["dense", "streaming"])
@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_beyond_the_first_tile(measure: str, workspace_bytes: int | None) -> None:
    """Every tile is looked at, and those of streaming, which are not kept."""
    n = 1100
    x, y = normal(n, 1), 1e-4 * normal(n, 1, 1)
    y[-3] = 2.0
    settings = {"kernel_x": bx.Gaussian(3.0), "kernel_y": bx.Gaussian(1.0), "estimator": "unbiased"}
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    truth = getattr(bx, measure)(wide, y.double(), **settings)
    truth.backward()
    value = getattr(bx, measure)(leaf, y, **settings, workspace_bytes=workspace_bytes)
    value.backward()
    assert relative_error(value.detach(), truth.detach()) < 1e-6
    assert relative_error(leaf.grad, wide.grad) < 1e-5


def _cka_in_50_digits(x: Tensor, kernel: str) -> float:
    """Unbiased CKA of x by a kernel, and the first two columns of x by the linear kernel; no diagonals."""
    with mpmath.workdps(50):
        rows = [[mpmath.mpf(v) for v in row] for row in x.tolist()]
        n = len(rows)
        K, L = mpmath.zeros(n), mpmath.zeros(n)
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if i == j:
                    continue
                D = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
                linear = sum(p * q for p, q in zip(a, b, strict=True))
                of_kernel = {"multiquadric": 1 / mpmath.sqrt(1 + D), "gaussian": mpmath.exp(-D / 2)}
                K[i, j] = of_kernel.get(kernel, linear)
                L[i, j] = sum(p * q for p, q in zip(a[:2], b[:2], strict=True))
        U, V = _u_centered(K), _u_centered(L)

        def product(A: mpmath.matrix, B: mpmath.matrix) -> mpmath.mpf:
            return sum(A[i, j] * B[i, j] for i in range(n) for j in range(n))

        return float(product(U, V) / mpmath.sqrt(product(U, U) * product(V, V)))


@SERVED_BY
@pytest.mark.parametrize("workspace_bytes", [None, 30_000])
@pytest.mark.parametrize("far", [1e3, 1e4])
@pytest.mark.parametrize("kernel", ["multiquadric", "gaussian", "linear"])
def test_near_samples_beside_a_far_one(
    kernel: str,
    far: float,
    workspace_bytes: int | None,
    served_by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The K of the near ones are nearly 1, and the far one makes the mean K small: 1e-5 was lost, and 1.7e-3 of 4."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x = 1e-3 * normal(16, 3).double()
    x[3, 1] = far
    kernels = {
        "multiquadric": bx.InverseMultiquadric(),
        "gaussian": bx.Gaussian(1.0, scale_by_dim=False),
        "linear": bx.Linear(),
    }
    got = bx.cka(
        x,
        x[:, :2],
        kernels[kernel],
        bx.Linear(),
        estimator="unbiased",
        workspace_bytes=workspace_bytes,
    )
    assert abs(float(got) - _cka_in_50_digits(x, kernel)) < 1e-10


@SERVED_BY
@pytest.mark.parametrize("workspace_bytes", [None, 60_000])
@pytest.mark.parametrize("far", [1e3, 1e4])
def test_float32_features_are_looked_at_in_float64(
    far: float, workspace_bytes: int | None, served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CKA was NaN, though float64 has a value."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x = 1e-3 * normal(16, 3)
    x[3, 1] = far
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    values = [
        bx.cka(t, t.detach()[:, :2], bx.Linear(), bx.Linear(), estimator="unbiased",
               workspace_bytes=workspace_bytes)
        for t in (leaf, wide)
    ]  # fmt: skip
    assert relative_error(values[0], values[1]) < 1e-6
    gradients = [torch.autograd.grad(v, t)[0] for v, t in zip(values, (leaf, wide), strict=True)]
    assert relative_error(gradients[0], gradients[1]) < 1e-6


def test_constant_features_are_undefined_in_float64_as_well() -> None:
    """Constant up to the round-off of float32, which float64 takes for differences."""
    x = 0.1 + 1e-9 * normal(16, 3)
    x[::2] *= 1 + 1e-7
    assert bool(bx.cka(x, normal(16, 2), estimator="unbiased").isnan())


@SERVED_BY
@pytest.mark.parametrize("width", [1.0, 4.0, 8.0])
def test_a_kernel_that_is_small_everywhere(
    width: float, served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K is 1e-3 to 1e-60 between samples: nothing may be added that is 1."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x = width * normal(12, 6).double()
    kernel = bx.Gaussian(1.0, scale_by_dim=False)
    got = bx.cka(x, x[:, :2], kernel, bx.Linear(), estimator="unbiased")
    if served_by == "composition" and width > 1:  # its entries are K - 1, which does not hold them
        assert bool(got.isnan())
        return
    assert abs(float(got) - _cka_in_50_digits(x, "gaussian")) < 1e-10
