# SPDX-License-Identifier: Apache-2.0
"""Unbiased CKA of ckatorch and cka-pytorch within 1e-10 in float64: slow, installs them into a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import bido_ext as bx
from benchmarks.rivals import cka_packages


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, cka_packages.Cka]:
    folder: Path = tmp_path_factory.mktemp("cka_packages")
    if not cka_packages.install(folder):
        pytest.skip("ckatorch and cka-pytorch cannot be had")
    return cka_packages.load(folder)


def samples(n: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, x.tanh() + torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(8, 3), (60, 200), (500, 20)])
def test_values_and_gradients(packages: dict[str, cka_packages.Cka], n: int, d: int) -> None:
    x, y = samples(n, d)
    x.requires_grad_()
    own = bx.cka(x, y, bx.Linear(), bx.Linear(), estimator="unbiased")
    (gradient,) = torch.autograd.grad(own, x)
    for name in ("ckatorch", "cka-pytorch", "ckatorch, value alone"):
        value = packages[name](x, y)
        assert float(value.detach()) == pytest.approx(float(own.detach()), abs=1e-10), name
        if not name.endswith("alone"):
            (theirs,) = torch.autograd.grad(value, x)
            torch.testing.assert_close(theirs, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_median_with_the_diagonal(packages: dict[str, cka_packages.Cka]) -> None:
    x, y = samples(40, 5)

    def kernel(v: Tensor) -> bx.Gaussian:
        squared = (v[:, None] - v).square().sum(2)
        return bx.Gaussian(float(squared.median()) ** 0.5, scale_by_dim=False)

    own = float(bx.cka(x, y, kernel(x), kernel(y), estimator="unbiased"))
    value = float(packages["ckatorch, Gaussian"](x, y))
    assert value == pytest.approx(own, abs=1e-10)
    ours = float(bx.cka(x, y, sigma="median", estimator="unbiased"))
    assert abs(value - ours) > 1e-6  # the diagonal makes its median smaller
