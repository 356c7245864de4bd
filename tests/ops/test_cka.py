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
