# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels by themselves, with the bounds of a GPU, where nothing runs again in float64: right, or NaN."""

from __future__ import annotations

import importlib
from typing import Any

import property_cases as cases
import pytest
import torch
from interpreter import skip_where_the_interpreter_is_broken
from torch import Tensor

import bido_ext as bx
from bido_ext.reference.kernel_entries import LABELS


@pytest.fixture(autouse=True)
def _bounds_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_where_the_interpreter_is_broken()
    importlib.import_module("bido_ext.triton_kernels.hsic")
    entry = importlib.import_module("bido_ext.triton_kernels.entry")
    resolution = importlib.import_module("bido_ext.triton_kernels.resolution")
    constexpr = importlib.import_module("triton.language").constexpr
    for name, bound in resolution.ON_GPU.items():
        monkeypatch.setattr(resolution, name, constexpr(bound))
        if hasattr(entry, name):
            monkeypatch.setattr(entry, name, constexpr(bound))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def value_and_gradient(
    x: Tensor, kernel: bx.Kernel, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """hsic of x and labels by the kernels alone."""
    functions = importlib.import_module("bido_ext.triton_kernels.hsic")
    n = len(x)
    packed = [float(p) for p in kernel.parameters(x)]
    parameters = torch.tensor([packed, [1.0] * len(packed)], dtype=torch.float64)
    assert kernel.kind is not None
    group = [x, torch.arange(n) % 5]
    args = ([kernel.kind, LABELS], [0], [1], False)
    tile = tile or n
    values, sums, kept = functions.hsic(group, parameters, *args, tile, -1 if tile >= n else 0)
    grad = torch.ones(1, dtype=torch.float64)
    (back,) = functions.hsic_backward(grad, group, parameters, sums, kept, *args, tile, [0])
    return values[0], back


def assert_right(x: Tensor, kernel: bx.Kernel, floor: float = 0.0, **settings: Any) -> None:
    value, gradient = value_and_gradient(x, kernel, **settings)
    wide, y = x.double(), torch.arange(len(x)) % 5
    K = cases._gram(wide, kernel).requires_grad_()
    truth = bx.reference.hsic(K, (y[:, None] == y[None]).double())
    (G,) = torch.autograd.grad(truth, K)
    right, _ = cases._of_features(wide, kernel, K.detach(), G, G.abs())
    truth = truth.detach()
    assert abs(float(value - truth)) <= 1e-5 * float(truth)
    assert float((gradient.double() - right).norm()) <= (1e-5 + floor) * float(right.norm())


KERNELS = [
    bx.Gaussian(5.0),
    bx.Linear(),
    bx.InverseMultiquadric(),
    bx.Laplacian(2.0),
    bx.Energy(),
    bx.Energy(0.7),
    bx.RationalQuadratic(0.5, 2.0),
    bx.RationalQuadratic(3.0, 2.0),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_kernel(kernel: bx.Kernel) -> None:
    x = normal(24, 8)
    if not isinstance(kernel, bx.InverseMultiquadric):
        x[12] = x[0]  # a distance of 0
    assert_right(x, kernel)
    assert_right(x, kernel, tile=10)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_common_offset_costs_no_digits(kernel: bx.Kernel) -> None:
    assert_right(normal(24, 8) + 1e5, kernel)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("tile", [None, 10])
def test_an_outlier_moves_no_other_sample(size: float, row: int, tile: int | None) -> None:
    x = normal(24, 40)
    x[row, 5] = size
    assert_right(x, bx.Gaussian(5.0), tile=tile)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("constant", [1000.0, 0.1, 1e-20, 3e30])
def test_a_dead_layer_has_no_gradient(kernel: bx.Kernel, constant: float) -> None:
    value, gradient = value_and_gradient(torch.full((20, 9), constant), kernel)
    assert float(value) == 0
    assert not bool(gradient.any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "d"), [(20, 40), (10, 1300)])
def test_half_precision_with_an_offset(dtype: torch.dtype, n: int, d: int) -> None:
    floor = 4e-3 if dtype == torch.bfloat16 else 1e-3  # its own round-off, of the gradient
    kernel = bx.Gaussian(5.0, scale_by_dim=False) if d < 100 else bx.Gaussian(5.0)
    x = (normal(n, d) + 100).to(dtype)
    value, _ = value_and_gradient(x, kernel)
    y = torch.arange(n) % 5
    truth = bx.hsic(x.double(), y, kernel_x=kernel)
    assert abs(float(value - truth)) <= 1e-5 * float(truth)
    if dtype == torch.bfloat16:
        assert_right(x, kernel, floor)


@pytest.mark.parametrize(
    "made",
    [
        lambda: (normal(24, 8) * 1e-20, bx.Gaussian(5.0)),  # squares vanish
        lambda: (normal(24, 8) * 1e18, bx.Gaussian(5.0)),
        lambda: (normal(24, 8), bx.Gaussian(1e-30)),
        lambda: (normal(24, 8), bx.Gaussian(0.1)),  # K is small
        lambda: (torch.cat([normal(12, 8), normal(12, 8) + 1e4]), bx.Gaussian(5.0)),  # clusters
        lambda: (torch.cat([normal(12, 8), normal(12, 8) + 1e4]), bx.InverseMultiquadric()),
    ],
)
@pytest.mark.parametrize("tile", [None, 10])
def test_what_float32_does_not_hold_is_not_a_number(made: Any, tile: int | None) -> None:
    x, kernel = made()
    value, gradient = value_and_gradient(x, kernel, tile)
    assert bool(value.isnan())
    assert bool(gradient.isnan().all())
