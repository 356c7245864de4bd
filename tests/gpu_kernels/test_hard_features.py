# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels on features that float32 finds hard: right, exactly zero, or NaN; never wrong."""

from __future__ import annotations

import importlib
from typing import Any

import property_cases as cases
import pytest
import torch
from cuda_emulator import public
from oracle import relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.reference.gram_stack import gram_backward
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    RATIONAL_QUADRATIC,
    entry_of_distance,
)

stack_op = importlib.import_module("bido_ext.ops.gram_stack")
N, D = 70, 40
#: Two parameters of every kernel.
KERNELS = {
    GAUSSIAN: (1 / (2 * D), 1.0),
    INVERSE_MULTIQUADRIC: (1.0, 1.0),
    LAPLACIAN: (1 / D**0.5, 1.0),
    ENERGY: (1.0, 1.0),
    RATIONAL_QUADRATIC: (1 / D, 0.7),
}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[True, False], ids=["shared", "whole"])
def stack(request: pytest.FixtureRequest, cuda_kernels: Any) -> Any:
    cuda_kernels.share_columns(request.param)
    return cuda_kernels


def distances(x: Tensor) -> Tensor:
    return (x[:, None] - x[None]).square().sum(-1)


def check_stack(kernels: Any, x: Tensor, kind: int, parameters: tuple[float, float]) -> None:
    """Entries and gradient of one kernel against float64 by direct differences."""
    p = torch.tensor([parameters], dtype=torch.float64)
    wide = x.double()
    E = entry_of_distance(distances(wide), p[0], kind)
    got = kernels.gram_stack([x], p, [kind])
    assert relative_error(got[0], E) < 2e-6
    assert torch.equal(got[0], got[0].T)
    incoming = normal(1, len(x), len(x))
    wanted = gram_backward(incoming[0], E, wide, p[0], kind, torch.float64)
    (grad,) = kernels.gram_stack_backward(incoming, got, [x], p, [kind])
    assert relative_error(grad, wanted) < 1e-5


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_every_kernel_at_every_offset(stack: Any, kind: int, offset: float) -> None:
    check_stack(stack, normal(N, D) + offset, kind, KERNELS[kind])


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7])
def test_powers_of_the_energy_kernel(stack: Any, beta: float) -> None:
    check_stack(stack, normal(N, D), ENERGY, (beta, 1.0))


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("size", [1e4, 1e6])
def test_an_outlier_moves_no_other_sample(stack: Any, kind: int, row: int, size: float) -> None:
    x = normal(N, D)
    x[row, 5] = size
    check_stack(stack, x, kind, KERNELS[kind])


@pytest.mark.parametrize("kind", KERNELS)
def test_duplicates_and_near_rows(stack: Any, kind: int) -> None:
    x = normal(N, D)
    x[10:20] = x[9]
    x[30] = x[31] + 0.3 * normal(D)
    check_stack(stack, x, kind, KERNELS[kind])


@pytest.mark.parametrize("kind", [*KERNELS, LINEAR])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.0, 1e-20, 3e30])
def test_constant_features_are_exact_zeros(stack: Any, kind: int, constant: float) -> None:
    x, p = torch.full((N, D), constant), torch.tensor([KERNELS.get(kind, (1.0, 1.0))]).double()
    E = stack.gram_stack([x], p, [kind])
    assert not bool(E.any())
    assert not bool(stack.gram_stack_backward(normal(1, N, N), E, [x], p, [kind])[0].any())


@pytest.mark.parametrize("kind", [GAUSSIAN, LAPLACIAN, RATIONAL_QUADRATIC])
@pytest.mark.parametrize("gamma", [1e-38, 1e38, 1e300])
def test_extreme_bandwidths_are_not_numbers(stack: Any, kind: int, gamma: float) -> None:
    E = stack.gram_stack([normal(N, D)], torch.tensor([[gamma, 1.0]], dtype=torch.float64), [kind])
    assert E.isnan().any()


@pytest.mark.parametrize("kind", [*KERNELS, LINEAR])
@pytest.mark.parametrize("scale", [1e-25, 1e-17, 1e17, 1e25])
def test_squares_beyond_float32_are_not_numbers(stack: Any, kind: int, scale: float) -> None:
    p = torch.tensor([KERNELS.get(kind, (1.0, 1.0))], dtype=torch.float64)
    assert stack.gram_stack([normal(N, D) * scale], p, [kind]).isnan().any()


@pytest.mark.parametrize("kind", [GAUSSIAN, LAPLACIAN, RATIONAL_QUADRATIC, INVERSE_MULTIQUADRIC])
def test_clusters_far_apart_are_not_numbers(stack: Any, kind: int) -> None:
    x = normal(N, D)
    x[: N // 2] += 1e4
    E = stack.gram_stack([x], torch.tensor([KERNELS[kind]], dtype=torch.float64), [kind])
    assert E.isnan().any()


def test_the_gradient_of_small_entries_is_not_a_number(stack: Any) -> None:
    x, p = normal(N, D), torch.tensor([0.2], dtype=torch.float64)
    E = stack.gram_stack([x], p, [GAUSSIAN])
    assert E.isfinite().all()
    assert stack.gram_stack_backward(normal(1, N, N), E, [x], p, [GAUSSIAN])[0].isnan().any()
    # K itself has the digits.
    K = stack.gaussian_gram(x, p[0], False)
    wide = x.double().requires_grad_()
    (wanted,) = torch.autograd.grad(torch.exp(-0.2 * distances(wide)), wide, normal(N, N).double())
    assert (
        relative_error(stack.gaussian_gram_backward(normal(N, N), K, x, p[0], False), wanted) < 1e-5
    )


@pytest.mark.parametrize("measure", ["hsic", "cka", "nhsic"])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("outlier", [None, 1e4, 1e6])
def test_measures(
    cuda_kernels: Any, monkeypatch: pytest.MonkeyPatch, measure: str, offset: float, outlier: float
) -> None:
    public.serve(cuda_kernels.functions, monkeypatch)
    x, y = normal(64, D) + offset, torch.arange(64) % 5
    if outlier is not None:
        x[3, 5] = outlier + offset
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    try:
        value = getattr(bx, measure)(leaf, y)
    except ValueError:  # the entries of an outlier are large against the ridge
        assert measure == "nhsic"
        assert outlier is not None
        return
    truth = getattr(bx.reference, measure)
    K = cases._gram(wide, bx.Gaussian(5.0))
    wanted = truth(K, (y[:, None] == y[None]).double(), *([1e-5] if measure == "nhsic" else []))
    value.backward()
    wanted.backward()
    assert relative_error(value.detach(), wanted.detach()) < cases.VALUE[measure]
    assert relative_error(leaf.grad, wide.grad) < cases.GRADIENT[measure]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "start", [1, 4, 7, *(pytest.param(start, marks=pytest.mark.slow) for start in (0, 2, 8))]
)
def test_features_that_start_anywhere(stack: Any, dtype: torch.dtype, start: int) -> None:
    """Views off the 16 bytes that a vector wants, with rows whose length is a multiple of them."""
    numbers = normal(9 + N * 64).to(dtype)
    x = numbers[start : start + N * 64].view(N, 64)
    group, kinds = [x, x, torch.arange(N) % 3], [GAUSSIAN, LINEAR, LABELS]
    p = torch.tensor([0.01, 1, 1], dtype=torch.float64)
    copies = [x.clone(), x.clone(), group[2]]
    E = stack.gram_stack(group, p, kinds)
    assert torch.equal(E, stack.gram_stack(copies, p, kinds))
    args = (normal(2, N, N), E[:2])
    got = stack.gram_stack_backward(*args, group[:2], p[:2], kinds[:2])
    wanted = stack.gram_stack_backward(*args, copies[:2], p[:2], kinds[:2])
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("kind", [LAPLACIAN, ENERGY, RATIONAL_QUADRATIC])
@pytest.mark.parametrize("tile", [512, 24])
@pytest.mark.parametrize("unbiased", [False, True])
def test_hsic_of_every_kernel(cuda_kernels: Any, kind: int, tile: int, unbiased: bool) -> None:
    x, z = normal(50, 30), normal(50, 30).flip(0)
    p = torch.tensor([KERNELS[kind], (1 / 60, 1.0)], dtype=torch.float64)
    args = ([kind, GAUSSIAN], [0], [1], unbiased, tile)
    values, sums, kept = cuda_kernels.hsic([x, z], p, *args, 0 if tile < 50 else -1)
    wide = x.double().requires_grad_()
    entry = entry_of_distance
    K, L = entry(distances(wide), p[0], kind), entry(distances(z.double()), p[1], GAUSSIAN)
    wanted = reference.hsic(K, L, unbiased)
    (want,) = torch.autograd.grad(wanted, wide)
    assert relative_error(values[0], wanted.detach()) < 1e-5
    one = torch.ones(1, dtype=torch.float64)
    (grad,) = cuda_kernels.hsic_backward(one, [x, z], p, sums, kept, *args, [0])
    assert relative_error(grad, want) < 1e-5


@pytest.mark.parametrize("kind", [LAPLACIAN, ENERGY, RATIONAL_QUADRATIC])
def test_nhsic_of_every_kernel(cuda_kernels: Any, kind: int) -> None:
    x, y = normal(50, 30), torch.arange(50) % 4
    p = torch.tensor([KERNELS[kind], (1.0, 1.0)], dtype=torch.float64)
    args = ([kind, LABELS], [0], [1], 1e-3)
    values, *kept = cuda_kernels.nhsic([x, y], p, *args, True, [0])
    wide = x.double().requires_grad_()
    K = entry_of_distance(distances(wide), p[0], kind)
    wanted = reference.nhsic(K, (y[:, None] == y[None]).double(), 1e-3)
    (want,) = torch.autograd.grad(wanted, wide)
    assert relative_error(values[0], wanted.detach()) < 1e-5
    one = torch.ones(1, dtype=torch.float64)
    (grad,) = cuda_kernels.nhsic_backward(one, [x, y], p, *kept, *args, [0])
    assert relative_error(grad, want) < 2e-5
