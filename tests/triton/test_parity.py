# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel against the float64 reference: odd shapes, dtypes, extreme bandwidths, bad features."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from bido_ext import reference

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("on a GPU these kernels are tested compiled (-m gpu)", allow_module_level=True)

from bido_ext.triton_kernels import gaussian_gram as gram
from bido_ext.triton_kernels import gram_stack, split_gram
from bido_ext.triton_kernels.double_center import double_center
from bido_ext.triton_kernels.hsic import hsic, hsic_backward

ops = importlib.import_module("bido_ext.ops.hsic")

GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS, GRAM = range(5)
#: Relative errors allowed: values, gradients. Half-precision gradients are rounded to their dtype.
TOLERANCE = {torch.float32: (2e-6, 1e-5), torch.bfloat16: (1e-5, 8e-3), torch.float16: (1e-5, 1e-3)}
SHAPES = [(1, 1), (2, 3), (17, 33), (40, 130)]


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-300))


def features(n: int, d: int, dtype: torch.dtype, offset: float = 1.0) -> Tensor:
    x = torch.randn(n, d) + offset
    if n > 2:
        x[n // 2] = x[0]  # duplicate rows
    return x.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("minus_one", [False, True])
@pytest.mark.parametrize("gamma_d", [1e-4, 0.02, 3.0])
def test_gaussian_gram(n: int, d: int, dtype: torch.dtype, minus_one: bool, gamma_d: float) -> None:
    x = features(n, d, dtype)
    gamma = torch.tensor(gamma_d / d, dtype=torch.float64)
    wide = x.double().requires_grad_()
    wanted = reference.gaussian_gram(wide, gamma, minus_one)
    got = gram.gaussian_gram(x, gamma, minus_one)
    values, grads = TOLERANCE[dtype]
    assert relative(got, wanted.detach()) <= values
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), torch.full((n,), 0.0 if minus_one else 1.0))
    incoming = torch.randn(n, n)
    (wanted_grad,) = torch.autograd.grad(wanted, wide, incoming.double())
    back = gram.gaussian_gram_backward(incoming, got, x, gamma, minus_one)
    assert back.dtype == dtype
    # With n = 1 the gradient is zero; float16 holds multiples of 6e-8.
    quantum = 3e-8 * x.numel() ** 0.5 if dtype == torch.float16 else 1e-12
    assert (
        float((back.double() - wanted_grad).norm()) <= grads * float(wanted_grad.norm()) + quantum
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinite_features_are_seen(dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf")):
        x = features(6, 5, dtype)
        x[2, 1] = bad
        assert gram.gaussian_gram(x, torch.tensor(0.1, dtype=torch.float64), True).isnan().any()


def test_rows_that_share_an_offset_keep_their_digits() -> None:
    x = features(20, 40, torch.float32, offset=300.0)
    gamma = torch.tensor(1 / (50 * 40), dtype=torch.float64)
    wanted = reference.gaussian_gram(x.double(), gamma, True)
    assert relative(gram.gaussian_gram(x, gamma, True), wanted) <= 2e-5


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_gram_stack(n: int, d: int, split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_stack, "pays", lambda features: split)
    monkeypatch.setattr(split_gram, "LEAST_COLUMNS", 32)
    wide_x = torch.randn(n, 2 * d + 1)
    group = [
        features(n, d, torch.float32), wide_x[:, ::2][:, :d], features(n, d + 3, torch.float32),
        features(n, 7, torch.bfloat16), features(n, 5, torch.bfloat16),
        torch.randint(0, 3, (n,)), torch.randn(n, n),
    ]  # fmt: skip
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, GAUSSIAN, LINEAR, LABELS, GRAM]
    parameters = torch.tensor([0.01, 1, 1, 0.02, 1, 0.5, 1], dtype=torch.float64)
    wide = [v.double().requires_grad_() if v.is_floating_point() else v for v in group]
    wanted = torch.stack(reference.gram_stack(wide, parameters, kinds))
    stack = gram_stack.gram_stack(group, parameters, kinds)
    for i, kind in enumerate(kinds):
        assert relative(stack[i], wanted[i].detach()) <= 2e-6, kind
        assert kind == GRAM or torch.equal(stack[i], stack[i].T)
    incoming = torch.randn(5, n, n)
    grads = torch.autograd.grad(wanted[:5], wide[:5], incoming.double())
    back = gram_stack.gram_stack_backward(incoming, stack[:5], group[:5], parameters[:5], kinds[:5])
    for got, want, v in zip(back, grads, group, strict=False):
        assert got.dtype == v.dtype
        assert (
            float((got.double() - want).norm())
            <= TOLERANCE[v.dtype][1] * float(want.norm()) + 1e-12
        )


@pytest.mark.parametrize("n", [1, 2, 17, 131])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_center(n: int, dtype: torch.dtype) -> None:
    K = (torch.randn(n, n, dtype=torch.float64) + 100).to(dtype)
    for matrix in (K, K.T):
        wanted = reference.double_center(matrix.double())
        got = double_center(matrix)
        assert got.dtype == dtype
        assert float((got - wanted).abs().max()) <= torch.finfo(dtype).eps * 100


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("tile", ["whole", "half", "odd"])
@pytest.mark.parametrize("n", [2, 5, 33])
def test_hsic(n: int, tile: str, unbiased: bool) -> None:
    if unbiased and n < 4:
        n = 4
    rows = {"whole": 512, "half": max(1, n // 2), "odd": max(1, n // 3)}[tile]
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
    values, sums, kept = hsic(group, parameters, *args, -1 if tile == "whole" else 0)
    want_values, want_sums, _ = ops._default(wide, parameters, *args, 0)
    scale = want_values.abs().max()
    assert float((values - want_values).abs().max() / scale) <= 5e-6
    assert relative(sums, want_sums) <= 2e-5
    grad = torch.randn(len(first), dtype=torch.float64)
    want = ops._default_backward(grad, wide, parameters, want_sums, kept, *args, wanted)
    got = hsic_backward(grad, group, parameters, sums, kept, *args, wanted)
    for g, w, i in zip(got, want, wanted, strict=True):
        assert g.dtype == group[i].dtype
        if (
            kinds[i] == GRAM
        ):  # the gradient of a symmetric matrix, of which the textbook's is one half
            w = (w + w.T) / 2
        assert float((g.double() - w).norm()) <= TOLERANCE[g.dtype][1] * float(w.norm()) + 1e-15


def test_streaming_equals_dense() -> None:
    x, z = features(50, 30, torch.float32), features(50, 60, torch.float32)
    parameters = torch.tensor([0.001, 0.0005], dtype=torch.float64)
    grad = torch.ones(1, dtype=torch.float64)
    results = []
    for tile, kept_tiles in ((50, -1), (16, 0)):
        args = ([0, 0], [1], [0], False, tile)
        values, sums, kept = hsic([x, z], parameters, *args, kept_tiles)
        (back,) = hsic_backward(grad, [x, z], parameters, sums, kept, *args, [1])
        results.append((values, back))
    (dense, dense_grad), (streamed, streamed_grad) = results
    assert relative(streamed, dense) <= 1e-6
    assert relative(streamed_grad, dense_grad.double()) <= 1e-6


def test_values_survive_the_cancellation_of_the_sums() -> None:
    """At BiDO's bandwidth the sums are hundreds of times the value: their constants must be float64."""
    n = 60
    x = torch.rand(n, 300)
    z = torch.relu(torch.randn(n, 300) + 0.1 * x)
    parameters = torch.full((2,), 1 / (2 * 25 * 300), dtype=torch.float64)
    args = ([0, 0], [0], [1], False, 512)
    values, _, _ = hsic([x, z], parameters, *args, -1)
    wanted, sums, _ = ops._default([x.double(), z.double()], parameters, *args, -1)
    cancellation = float(2 / n * (sums[0] @ sums[1]) / (n - 1) ** 2 / wanted[0])
    assert cancellation > 100
    assert relative(values, wanted) <= 5e-7


def test_partly_kept_tiles_are_refused() -> None:
    x = features(20, 4, torch.float32)
    with pytest.raises(ValueError, match="kept_tiles = 2"):
        hsic([x, x], torch.ones(2, dtype=torch.float64), [0, 0], [0], [1], False, 8, 2)


def test_splits_cover_every_column() -> None:
    assert split_gram._splits([10, 100000, 3000], 132.0) == (1, 128, 4)
    assert split_gram._splits([5], 264.0) == (1,)
