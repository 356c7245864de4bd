# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from oracle import each_wide_dtype, features, relative_error

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.cka import CkaMeasure
from bido_ext.ops.group import Pairs, make_group


@each_wide_dtype
@pytest.mark.parametrize("n", [2, 3, 64, 257])
def test_forward(dtype: torch.dtype, n: int) -> None:
    x, z = features(n, 40, dtype), features(n, 30, dtype, seed=4)
    K = reference.gaussian_gram(x.double(), 1 / (50 * 40), True)
    L = reference.gaussian_gram(z.double(), 1 / (50 * 30), True)
    value = bx.cka(x, z)
    assert value.dtype == dtype
    assert relative_error(value, reference.cka(K, L)) < (1e-9 if dtype == torch.float64 else 1e-5)


def test_backward() -> None:
    x, z = features(20, 6).requires_grad_(), features(20, 4, seed=4)
    K = reference.gaussian_gram(x, 1 / (50 * 6), True)
    (truth,) = torch.autograd.grad(reference.cka(K, reference.gaussian_gram(z, 1 / 200, True)), x)
    (value,) = torch.autograd.grad(bx.cka(x, z), x)
    assert relative_error(value, truth) < 1e-9


def test_range_and_invariances() -> None:
    x, y = features(40, 9), torch.arange(40) % 4
    assert float(bx.cka(x, x)) == pytest.approx(1)
    assert float(bx.cka(x, 3 * x + 1, bx.Linear(), bx.Linear())) == pytest.approx(1)
    assert 0 < float(bx.cka(x, y)) < 1


def test_constant_features_give_zero_with_zero_gradient() -> None:
    leaf = torch.ones(6, 3).requires_grad_()
    value = bx.cka(leaf, torch.arange(6) % 2)
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(leaf.grad, torch.zeros(6, 3))


@pytest.mark.parametrize("workspace", [None, 300_000], ids=["dense", "streaming"])
def test_pairs_of_a_group_equal_single_pairs(workspace: int | None) -> None:
    n = 300
    y = torch.arange(n) % 4
    variables = [features(n, d, seed=d).requires_grad_() for d in (40, 9, 5, 3)]
    kernels = [bx.Gaussian(0.5), bx.Gaussian(0.7), bx.InverseMultiquadric(), bx.Linear(), None]
    pairs = Pairs([1, 2, 3, 0, 2, 1, 1], [0, 0, 0, 4, 4, 4, 1])
    weight = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.0, 0.7, 0.2], dtype=torch.float64)
    group = make_group([*variables, y], kernels)
    if workspace:
        plan = bx.plan(n, [40, 9, 5, 3, 0], torch.float64, "cka", workspace)
        assert plan.regime == "streaming"
    values = CkaMeasure().values(group, pairs, workspace)
    grads = torch.autograd.grad(values @ weight, variables)
    every = [*variables, y]
    single = torch.stack(
        [bx.cka(every[a], every[b], kernels[a], kernels[b]) for a, b in zip(*pairs, strict=True)]
    )
    assert float(single[-1].detach()) == pytest.approx(1)
    assert relative_error(values.detach(), single.detach()) < 1e-10
    expected = torch.autograd.grad(single @ weight, variables)
    for value, want in zip(grads, expected, strict=True):
        assert relative_error(value, want) < 1e-9


def test_gradcheck() -> None:
    x, z = features(6, 3).requires_grad_(), features(6, 2, seed=1).requires_grad_()
    kernel = bx.Gaussian(0.5)
    assert torch.autograd.gradcheck(lambda a, b: bx.cka(a, b, kernel, kernel), (x, z))


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.cka(a, y), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.cka(x, y))


# The unbiased estimator.


def truth(x: torch.Tensor, z: torch.Tensor, sigma: float = 5.0) -> torch.Tensor:
    """Unbiased CKA of Gaussian Gram matrices, float64 textbook."""
    K, L = (
        reference.gaussian_gram(v.double(), 1 / (2 * sigma**2 * v.shape[1]), True) for v in (x, z)
    )
    return reference.cka(K, L, unbiased=True)


@each_wide_dtype
@pytest.mark.parametrize("n", [4, 5, 64, 257, 600])
def test_unbiased_forward(dtype: torch.dtype, n: int) -> None:
    x, z = features(n, 40, dtype), features(n, 30, dtype, seed=4)
    value = bx.cka(x, z, estimator="unbiased")
    assert value.dtype == dtype
    error = abs(float(value) - float(truth(x, z)))
    assert error < (1e-9 if dtype == torch.float64 else 2e-5)
    if n > 500 and dtype == torch.float32:
        streamed = bx.cka(x, z, estimator="unbiased", workspace_bytes=1_000_000)
        assert bx.plan(n, [40, 30], dtype, "cka", 1_000_000).regime == "streaming"
        assert float(streamed) == pytest.approx(float(value), abs=1e-6)


def test_unbiased_is_a_correlation_and_may_be_negative() -> None:
    values = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, z = (torch.randn(12, 30, generator=generator, dtype=torch.float64) for _ in range(2))
        values.append(float(bx.cka(x, z, bx.Linear(), bx.Linear(), estimator="unbiased")))
        biased = float(bx.cka(x, z, bx.Linear(), bx.Linear()))
        assert biased > 0.6, "the bias that the estimator takes away"
    assert min(values) < 0
    assert all(-1 <= value <= 1 for value in values)
    assert abs(sum(values) / len(values)) < 0.05
    x = features(20, 5)
    assert float(bx.cka(x, x, estimator="unbiased")) == pytest.approx(1)
    scaled = bx.cka(x, 3 * x + 1, bx.Linear(), bx.Linear(), estimator="unbiased")
    assert float(scaled) == pytest.approx(1)


def test_unbiased_with_labels_and_duplicate_rows() -> None:
    x, y = features(40, 9).repeat(2, 1), (torch.arange(40) % 4).repeat(2)
    K = reference.gaussian_gram(x, 1 / (50 * 9), True)
    L = (y[:, None] == y[None, :]).double()
    expected = float(reference.cka(K, L, unbiased=True))
    assert float(bx.cka(x, y, estimator="unbiased")) == pytest.approx(expected, abs=1e-9)
    alike = float(bx.cka(x.float(), x.float(), estimator="unbiased"))
    assert alike == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("regime", ["dense", "streaming"])
def test_unbiased_backward(regime: str) -> None:
    n = 300
    x, z = features(n, 6).requires_grad_(), features(n, 4, seed=4)
    workspace = 300_000 if regime == "streaming" else None
    value = bx.cka(x, z, estimator="unbiased", workspace_bytes=workspace)
    (gradient,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad(truth(x, z), x)
    assert relative_error(gradient, expected) < 1e-8


def test_unbiased_gradcheck() -> None:
    x, z = features(7, 3).requires_grad_(), features(7, 2, seed=1).requires_grad_()
    kernel = bx.Gaussian(0.5)
    assert torch.autograd.gradcheck(
        lambda a, b: bx.cka(a, b, kernel, kernel, estimator="unbiased"), (x, z)
    )


def test_unbiased_pairs_of_a_group_equal_single_pairs() -> None:
    n, y = 30, torch.arange(30) % 4
    variables = [features(n, d, seed=d).requires_grad_() for d in (40, 9, 5)]
    kernels = [bx.Gaussian(0.5), bx.Linear(), bx.InverseMultiquadric(), None]
    pairs = Pairs([1, 2, 0, 2, 1], [0, 0, 3, 3, 1])
    every = [*variables, y]
    values = CkaMeasure(unbiased=True).values(make_group(every, kernels), pairs)
    single = torch.stack(
        [
            bx.cka(every[a], every[b], kernels[a], kernels[b], estimator="unbiased")
            for a, b in zip(*pairs, strict=True)
        ]
    )
    assert relative_error(values.detach(), single.detach()) < 1e-10
    got = torch.autograd.grad(values.sum(), variables)
    for value, want in zip(got, torch.autograd.grad(single.sum(), variables), strict=True):
        assert relative_error(value, want) < 1e-9


@each_wide_dtype
@pytest.mark.parametrize("n", [4, 5, 64, 130, 257, 700])
@pytest.mark.parametrize("kernel", [bx.Gaussian(), bx.Linear(), bx.InverseMultiquadric()])
def test_unbiased_of_dead_features_is_nan_without_gradient(
    dtype: torch.dtype, n: int, kernel: bx.Kernel
) -> None:
    row = torch.randn(1, 37, dtype=dtype) * torch.logspace(-3, 3, 37, dtype=dtype)
    dead = row.repeat(n, 1).requires_grad_()
    x = features(n, 5, dtype).requires_grad_()
    value = bx.cka(x, dead, kernel, kernel, estimator="unbiased")
    assert torch.isnan(value)
    value.backward()
    assert torch.equal(dead.grad, torch.zeros_like(dead))
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.isnan(bx.cka(dead.detach(), dead.detach(), kernel, kernel, estimator="unbiased"))


def test_unbiased_of_what_has_no_differences_is_nan() -> None:
    x, n = features(12, 5), 12
    for labels in (torch.zeros(n, dtype=torch.long), torch.arange(n)):
        assert torch.isnan(bx.cka(x, labels, estimator="unbiased"))
    narrow = bx.Gaussian(1e-4)  # all samples equally far: K = I
    assert torch.isnan(bx.cka(x, x, narrow, narrow, estimator="unbiased"))


def test_unbiased_refuses_with_the_reason() -> None:
    x = features(6, 3)
    with pytest.raises(ValueError, match="at least 4"):
        bx.cka(x[:3], x[:3], estimator="unbiased")
    with pytest.raises(ValueError, match="estimator must be one of"):
        bx.cka(x, x, estimator="debiased")
    x[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"x contain\(s\) NaN"):
        bx.cka(x, features(6, 2), estimator="unbiased")


def test_unbiased_compile_and_transforms() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.cka(a, y, estimator="unbiased"), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.cka(x, y, estimator="unbiased"))
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(bx.cka(leaf, y, estimator="unbiased"), leaf)
    got = torch.func.grad(lambda a: bx.cka(a, y, estimator="unbiased"))(x)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kernel", [bx.Linear(), bx.Energy()], ids=["linear", "energy"])
@pytest.mark.parametrize("exponent", [-120, -100, -84, 64, 84, 120])
def test_unbiased_has_no_scale(exponent: int, kernel: bx.Kernel) -> None:
    """Of features beyond 1e19 or below 1e-23 it was NaN: nothing to compare, as squares in float32 told."""
    x, y = (features(20, d, torch.float32, seed=d) for d in (5, 3))
    one, other = (z.clone().requires_grad_() for z in (x, x * 2.0**exponent))
    value = bx.cka(one, y, kernel, kernel, estimator="unbiased")
    scaled = bx.cka(other, y, kernel, kernel, estimator="unbiased")
    assert float(scaled) == pytest.approx(float(value), rel=2e-6)
    (expected,) = torch.autograd.grad(value, one)
    (actual,) = torch.autograd.grad(scaled, other)
    torch.testing.assert_close(actual * 2.0**exponent, expected, rtol=1e-5, atol=1e-7)


UNDERFLOW = "Products of the entries of the Gram matrix of x underflow float64: scale x up"
OVERFLOW = "overflow. Scale the features down"


@pytest.mark.parametrize(
    ("scale", "words"), [(1e-200, UNDERFLOW), (1e-100, UNDERFLOW), (1e80, OVERFLOW)]
)
def test_products_that_are_no_numbers_are_refused(scale: float, words: str) -> None:
    """CKA has no scale; of such features it was 0 in silence, as of a constant variable."""
    x, y, linear = features(20, 3), features(20, 2, seed=1), bx.Linear()
    with pytest.raises(ValueError, match=words):
        bx.cka(x * scale, y, linear, linear)
    loss = bx.BiDOLoss("cka", kernel_x=linear, kernel_z=linear)
    with pytest.raises(
        ValueError, match=words.replace(" x ", " .*layer 'z' ").replace("scale x", "scale .*")
    ):
        loss(y, {"z": x * scale}, torch.arange(20) % 3)
    if scale < 1:
        with pytest.raises(ValueError, match=words):
            bx.cka(x, y, sigma=1e100)


@pytest.mark.parametrize("scale", [1e-65, 1e65])
def test_far_scales_in_float64(scale: float) -> None:
    x, y, linear = features(20, 3), features(20, 2, seed=1), bx.Linear()
    one, other = x.clone().requires_grad_(), (x * scale).requires_grad_()
    value, scaled = (bx.cka(z, y, linear, linear) for z in (one, other))
    assert float(scaled) == pytest.approx(float(value), rel=1e-12)
    (expected,) = torch.autograd.grad(value, one)
    (actual,) = torch.autograd.grad(scaled, other)
    torch.testing.assert_close(actual * scale, expected)
