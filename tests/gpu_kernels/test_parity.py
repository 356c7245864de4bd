# SPDX-License-Identifier: Apache-2.0
"""Every GPU kernel against the float64 reference: odd shapes, dtypes, extreme bandwidths, bad features."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR

ops = importlib.import_module("bido_ext.ops.hsic")
ops_stack = importlib.import_module("bido_ext.ops.gram_stack")

#: Relative errors allowed: values, gradients. Half-precision gradients are rounded to their dtype.
TOLERANCE = {torch.float32: (2e-6, 1e-5), torch.bfloat16: (1e-5, 8e-3), torch.float16: (1e-5, 1e-3)}
SHAPES = [(1, 1), (2, 3), (17, 33), (40, 130)]
#: More samples than a tile has rows; too slow for Triton's interpreter.
LARGE = [(131, 70), (257, 64)]


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-300))


def features(n: int, d: int, dtype: torch.dtype, offset: float = 1.0) -> Tensor:
    x = torch.randn(n, d) + offset
    if n > 2:
        x[n // 2] = x[0]  # duplicate rows
    return x.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize(
    ("gamma_d", "minus_one"), [(1e-4, True), (0.02, False), (0.02, True), (3.0, False)]
)
def test_gaussian_gram(
    kernels: Any, n: int, d: int, dtype: torch.dtype, minus_one: bool, gamma_d: float
) -> None:
    check_gaussian_gram(kernels, n, d, dtype, minus_one, gamma_d)


@pytest.mark.parametrize("dtype", TOLERANCE)
# The last: more columns than go into one sum.
@pytest.mark.parametrize(("n", "d"), [*LARGE, (20, 4500)])
def test_gaussian_gram_of_several_tiles(
    cuda_kernels: Any, n: int, d: int, dtype: torch.dtype
) -> None:
    check_gaussian_gram(cuda_kernels, n, d, dtype, True, 0.02)


def check_gaussian_gram(
    kernels: Any, n: int, d: int, dtype: torch.dtype, minus_one: bool, gamma_d: float
) -> None:
    x = features(n, d, dtype)
    gamma = torch.tensor(gamma_d / d, dtype=torch.float64)
    wide = x.double().requires_grad_()
    wanted = reference.gaussian_gram(wide, gamma, minus_one)
    got = kernels.gaussian_gram(x, gamma, minus_one)
    values, grads = TOLERANCE[dtype]
    assert relative(got, wanted.detach()) <= values
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), torch.full((n,), 0.0 if minus_one else 1.0))
    incoming = torch.randn(n, n)
    (wanted_grad,) = torch.autograd.grad(wanted, wide, incoming.double())
    back = kernels.gaussian_gram_backward(incoming, got, x, gamma, minus_one)
    assert back.dtype == dtype
    # With n = 1 the gradient is zero; float16 holds multiples of 6e-8.
    quantum = 3e-8 * x.numel() ** 0.5 if dtype == torch.float16 else 1e-12
    assert (
        float((back.double() - wanted_grad).norm()) <= grads * float(wanted_grad.norm()) + quantum
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinite_features_are_seen(kernels: Any, dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf")):
        x = features(6, 5, dtype)
        x[2, 1] = bad
        assert kernels.gaussian_gram(x, torch.tensor(0.1, dtype=torch.float64), True).isnan().any()


def test_rows_that_share_an_offset_keep_their_digits(kernels: Any) -> None:
    x = features(20, 40, torch.float32, offset=300.0)
    gamma = torch.tensor(1 / (50 * 40), dtype=torch.float64)
    wanted = reference.gaussian_gram(x.double(), gamma, True)
    assert relative(kernels.gaussian_gram(x, gamma, True), wanted) <= 2e-5


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_gram_stack(kernels: Any, n: int, d: int, split: bool) -> None:
    check_gram_stack(kernels, n, d, split)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("n", "d"), LARGE)
def test_gram_stack_of_several_tiles(cuda_kernels: Any, n: int, d: int, split: bool) -> None:
    check_gram_stack(cuda_kernels, n, d, split)


def check_gram_stack(kernels: Any, n: int, d: int, split: bool) -> None:
    kernels.share_columns(split)
    wide_x = torch.randn(n, 2 * d + 1)
    group = [
        features(n, d, torch.float32), wide_x[:, ::2][:, :d], features(n, d + 3, torch.float32),
        features(n, 7, torch.bfloat16), features(n, 5, torch.bfloat16),
        torch.randint(0, 3, (n,)), torch.randn(n, n),
    ]  # fmt: skip
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, GAUSSIAN, LINEAR, LABELS, GRAM]
    parameters = torch.tensor([min(0.01, 1 / d), 1, 1, 0.02, 1, 0.5, 1], dtype=torch.float64)
    wide = [v.double().requires_grad_() if v.is_floating_point() else v for v in group]
    wanted = torch.stack(reference.gram_stack(wide, parameters, kinds))
    stack = kernels.gram_stack(group, parameters, kinds)
    for i, kind in enumerate(kinds):
        assert relative(stack[i], wanted[i].detach()) <= 2e-6, kind
        assert kind == GRAM or torch.equal(stack[i], stack[i].T)
    incoming = torch.randn(5, n, n)
    grads = torch.autograd.grad(wanted[:5], wide[:5], incoming.double())
    back = kernels.gram_stack_backward(incoming, stack[:5], group[:5], parameters[:5], kinds[:5])
    textbook = ops_stack._default_backward(
        incoming,
        ops_stack._default(group, parameters, kinds)[:5],
        group[:5],
        parameters[:5],
        kinds[:5],
    )
    for got, want, same_dtype, v in zip(back, grads, textbook, group, strict=False):
        assert got.dtype == v.dtype
        # The budget of CONTRIBUTING: duplicate rows make the gradient of the inverse multiquadric a small rest.
        budget = max(
            TOLERANCE[v.dtype][1] * float(want.norm()),
            2 * float((same_dtype.double() - want).norm()),
        )
        assert float((got.double() - want).norm()) <= budget + 1e-12


@pytest.mark.parametrize("n", [1, 2, 17, 131])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_center(kernels: Any, n: int, dtype: torch.dtype) -> None:
    K = (torch.randn(n, n, dtype=torch.float64) + 100).to(dtype)
    for matrix in (K, K.T):
        wanted = reference.double_center(matrix.double())
        got = kernels.double_center(matrix)
        assert got.dtype == dtype
        # In float64 the means of numbers around 100, and those of the reference, are rounded as well.
        roundings = 1 if dtype == torch.float32 else 4
        assert float((got - wanted).abs().max()) <= roundings * torch.finfo(dtype).eps * 100


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    ("n", "tile"),
    [(2, "whole"), (2, "half"), (5, "half"), (5, "third"), (33, "whole"), (33, "half")],
)
def test_hsic(kernels: Any, n: int, tile: str, unbiased: bool) -> None:
    if unbiased and n < 4:
        n = 4
    rows = {"whole": 512, "half": max(1, n // 2), "third": max(1, n // 3)}[tile]
    group = [
        features(n, 37, torch.float32), features(n, 90, torch.float32), features(n, 13, torch.float32),
        features(n, 20, torch.bfloat16), torch.arange(n) % 3,
    ]  # fmt: skip
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, GAUSSIAN, LABELS]
    parameters = torch.tensor([0.01, 1, 1, 0.02, 0.5], dtype=torch.float64)
    first, second, wanted = [0, 1, 2, 3, 0, 3], [4, 4, 3, 4, 1, 3], [3, 0, 1]
    if tile == "whole":  # a Gram matrix of the user's, and second labels
        A = torch.randn(n, n)
        group += [A + A.T, torch.arange(n) % 2]
        kinds += [GRAM, LABELS]
        parameters = torch.cat([parameters, torch.ones(2, dtype=torch.float64)])
        first, second, wanted = [*first, 5, 5], [*second, 0, 6], [*wanted, 5]
    wide = [v.double() if v.is_floating_point() else v for v in group]
    args = (kinds, first, second, unbiased, rows)
    values, sums, kept = kernels.hsic(group, parameters, *args, -1 if tile == "whole" else 0)
    want_values, want_sums, _ = ops._default(wide, parameters, *args, 0)
    scale = want_values.abs().max()
    assert float((values - want_values).abs().max() / scale) <= 5e-6
    # Those of a linear kernel depend on where a kernel puts the origin.
    known = [i for i, kind in enumerate(kinds) if kind != LINEAR]
    assert relative(sums[known], want_sums[known]) <= 2e-5
    grad = torch.randn(len(first), dtype=torch.float64)
    want = ops._default_backward(grad, wide, parameters, want_sums, kept, *args, wanted)
    got = kernels.hsic_backward(grad, group, parameters, sums, kept, *args, wanted)
    for g, w, i in zip(got, want, wanted, strict=True):
        assert g.dtype == group[i].dtype
        if (
            kinds[i] == GRAM
        ):  # the gradient of a symmetric matrix, of which the textbook's is one half
            w = (w + w.T) / 2
        assert float((g.double() - w).norm()) <= TOLERANCE[g.dtype][1] * float(w.norm()) + 1e-15


def test_streaming_equals_dense(kernels: Any) -> None:
    x, z = features(50, 30, torch.float32), features(50, 60, torch.float32)
    parameters = torch.tensor([0.001, 0.0005], dtype=torch.float64)
    grad = torch.ones(1, dtype=torch.float64)
    results = []
    for tile, kept_tiles in ((50, -1), (16, 0)):
        args = ([0, 0], [1], [0], False, tile)
        values, sums, kept = kernels.hsic([x, z], parameters, *args, kept_tiles)
        (back,) = kernels.hsic_backward(grad, [x, z], parameters, sums, kept, *args, [1])
        results.append((values, back))
    (dense, dense_grad), (streamed, streamed_grad) = results
    assert relative(streamed, dense) <= 1e-6
    assert relative(streamed_grad, dense_grad.double()) <= 1e-6


def test_values_survive_the_cancellation_of_the_sums(kernels: Any) -> None:
    """At BiDO's bandwidth the sums are hundreds of times the value: their constants must be float64."""
    n = 60
    x = torch.rand(n, 300)
    z = torch.relu(torch.randn(n, 300) + 0.1 * x)
    parameters = torch.full((2,), 1 / (2 * 25 * 300), dtype=torch.float64)
    args = ([0, 0], [0], [1], False, 512)
    values, _, _ = kernels.hsic([x, z], parameters, *args, -1)
    wanted, sums, _ = ops._default([x.double(), z.double()], parameters, *args, -1)
    cancellation = float(2 / n * (sums[0] @ sums[1]) / (n - 1) ** 2 / wanted[0])
    assert cancellation > 100
    assert relative(values, wanted) <= 5e-7


def test_partly_kept_tiles_are_refused(kernels: Any) -> None:
    x = features(20, 4, torch.float32)
    with pytest.raises((ValueError, RuntimeError), match="either all is kept"):
        kernels.hsic([x, x], torch.ones(2, dtype=torch.float64), [0, 0], [0], [1], False, 8, 2)


@pytest.mark.parametrize("n", [1, 2, 15, 64, 65, 128])
def test_nhsic_of_few_samples(cuda_kernels: Any, n: int) -> None:
    group = [
        features(n, 37, torch.float32), features(n, 90, torch.float32), features(n, 13, torch.float32),
        features(n, 20, torch.bfloat16), torch.arange(n) % 3, torch.arange(n) % 2,
    ]  # fmt: skip
    A = torch.randn(n, max(2, n // 2))
    group.append(A @ A.T / n)
    kinds = [GAUSSIAN, GAUSSIAN, INVERSE_MULTIQUADRIC, GAUSSIAN, LABELS, LABELS, GRAM]
    parameters = torch.tensor([0.01, 0.003, 1, 0.02, 0.5, 1, 1], dtype=torch.float64)
    first, second, eps = [0, 1, 2, 3, 0, 3, 6, 0], [4, 4, 3, 4, 1, 3, 0, 5], 1e-3
    wanted = [0, 1, 3, 6]
    nhsic = importlib.import_module("bido_ext.ops.nhsic")
    wide = [v.double() if v.is_floating_point() else v for v in group]
    want = nhsic._default(wide, parameters, kinds, first, second, eps, True, wanted)
    got = cuda_kernels.nhsic(group, parameters, kinds, first, second, eps, True, wanted)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert float((g - w).norm()) <= 1e-4 * float(w.norm()) + 1e-9 * n
    grad = torch.randn(len(first), dtype=torch.float64)
    args = (kinds, first, second, eps, wanted)
    want_grads = nhsic._default_backward(grad, wide, parameters, *want[1:], *args)
    grads = cuda_kernels.nhsic_backward(grad, group, parameters, *got[1:], *args)
    for g, w, i in zip(grads, want_grads, wanted, strict=True):
        assert g.dtype == group[i].dtype
        bound = 8e-3 if g.dtype == torch.bfloat16 else 1e-3
        assert float((g.double() - w).norm()) <= bound * float(w.norm()) + 1e-7


def test_nhsic_of_a_linear_kernel_is_refused(cuda_kernels: Any) -> None:
    """Its float32 Gram matrix does not tell eigenvalues below the ridge."""
    args = (
        [torch.randn(8, 3), torch.arange(8) % 2],
        torch.ones(2, dtype=torch.float64),
        [LINEAR, LABELS],
    )
    with pytest.raises(RuntimeError, match="takes no linear kernel"):
        cuda_kernels.nhsic(*args, [0], [1], 1e-5, True, [0])


def test_nhsic_of_features_that_are_not_numbers_is_not_a_number(cuda_kernels: Any) -> None:
    x = features(10, 4, torch.float32)
    x[3, 1] = float("nan")
    args = (
        [x, torch.arange(10) % 2],
        torch.ones(2, dtype=torch.float64),
        [GAUSSIAN, LABELS],
        [0],
        [1],
        1e-5,
        True,
        [0],
    )
    assert cuda_kernels.nhsic(*args)[0].isnan().all()


def test_splits_cover_every_column() -> None:
    split_gram = pytest.importorskip("bido_ext.triton_kernels.split_gram")
    assert split_gram._splits([10, 100000, 3000], 132.0) == (1, 128, 4)
    assert split_gram._splits([5], 264.0) == (1,)
