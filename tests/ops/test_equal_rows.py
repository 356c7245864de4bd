# SPDX-License-Identifier: Apache-2.0
"""nhsic of two variables with the same equal samples: nothing of 1 / c is left in the gradient of these."""

from __future__ import annotations

import property_cases as cases
import pytest
import torch
from compositions import serve_compositions
from property_cases import Case, Data

import bido_ext as bx

DATA = Data(
    d=1, rank=1, log_scale=0.0, log_offset=0.0, outliers=0, log_outlier=0.0, duplicates=True,
    dtype=torch.float32,
)  # fmt: skip


@pytest.mark.parametrize("implementation", ["native", "composition"])
@pytest.mark.parametrize("n", [4, 9, 60])
@pytest.mark.parametrize("log_eps", [-7.8, -7.0, -6.0, -5.0])
@pytest.mark.parametrize("kernel", ["gaussian", "polynomial"])
def test_right(
    implementation: str, n: int, log_eps: float, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "composition":
        serve_compositions(monkeypatch)
    case = Case(
        measure="nhsic", n=n, seed=0, x=DATA, kernel=kernel, log_sigma=0.0, relative=False, y=DATA,
        kernel_y="gaussian", log_eps=log_eps, classes=1,
    )  # fmt: skip
    ratio, what = cases.worst_ratio(case)
    assert ratio <= 1, what


@pytest.mark.parametrize("implementation", ["native", "composition"])
@pytest.mark.parametrize("kernel", [bx.Gaussian(1.0), bx.Polynomial()])
def test_equal_samples_have_the_same_gradient(
    implementation: str, kernel: bx.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "composition":
        serve_compositions(monkeypatch)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    x[5:] = x[0]
    y = x.flip(1).clone() * 2
    leaf = x.requires_grad_()
    bx.nhsic(leaf, y, kernel, bx.Gaussian(1.0, scale_by_dim=False), eps=1e-8).backward()
    assert leaf.grad is not None
    for row in (5, 6):
        torch.testing.assert_close(leaf.grad[row], leaf.grad[0], rtol=1e-6, atol=0.0)
