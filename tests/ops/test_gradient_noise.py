# SPDX-License-Identifier: Apache-2.0
"""Gradients whose terms cancel beyond float32, which only their weights show (csrc/cpu/gradient_noise.h)."""

from __future__ import annotations

import pytest
import torch
from compositions import serve_compositions
from nhsic_in_digits import nhsic_in_50_digits
from oracle import relative_error
from torch import Tensor

import bido_ext as bx


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def assert_as_in_float64(
    measure: str, x: Tensor, y: Tensor, tolerance: float, **settings: object
) -> None:
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    getattr(bx, measure)(wide, y, **settings).backward()
    getattr(bx, measure)(leaf, y, **settings).backward()
    assert relative_error(leaf.grad, wide.grad) < tolerance


@pytest.mark.parametrize("served_by", ["kernel", "composition"])
@pytest.mark.parametrize("measure", ["hsic", "cka", "coco", "coco fro", "nhsic"])
@pytest.mark.parametrize("n", [8, 40, 600])
def test_clusters_far_apart(
    measure: str, n: int, served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 0 is far from most others, and the labels are those of near pairs."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x = normal(n, 3)
    x[::3] += 3000
    y = torch.arange(n) // 3 % 2  # as many of each class in both clusters
    name, _, norm = measure.partition(" ")
    settings = {"norm": norm} if norm else {}
    kernel = bx.Gaussian(2000.0, scale_by_dim=False)
    assert_as_in_float64(name, x, y, 1e-5, kernel_x=kernel, **settings)


def test_clusters_far_apart_by_streaming() -> None:
    x, y = normal(1100, 3), torch.arange(1100) // 3 % 2
    x[::3] += 3000
    kernel = bx.Gaussian(2000.0, scale_by_dim=False)
    assert_as_in_float64("hsic", x, y, 1e-5, kernel_x=kernel, workspace_bytes=1 << 20)


@pytest.mark.parametrize("served_by", ["kernel", "composition"])
def test_no_round_off_of_labels_of_one_class(
    served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x = normal(40, 3).requires_grad_()
    value = bx.nhsic(x, torch.zeros(40, dtype=torch.int64), eps=1e-8)
    value.backward()
    assert float(value.detach()) == 0
    assert not bool(x.grad.any())


@pytest.mark.parametrize("served_by", ["kernel", "composition"])
def test_nhsic_of_the_same_equal_samples_in_both(
    served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float64 makes round-off, 1e-16 / c, where the difference of two equal samples has nothing."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    x, y = 3 * normal(6, 4), 3 * normal(6, 4, 1)
    x[3], y[3] = x[0], y[0]
    kernel = bx.Gaussian(2.0, scale_by_dim=False)
    gradient = nhsic_in_50_digits(x.double(), y, kernel, kernel, 2e-9)[1]
    leaf = x.clone().requires_grad_()
    bx.nhsic(leaf, y, kernel, kernel, eps=2e-9).backward()
    assert relative_error(leaf.grad, gradient) < 5e-5
