# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from oracle import each_wide_dtype, features, gram, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.nhsic import NhsicMeasure, label_factor
from bido_ext.reference.nhsic import nhsic_factor


def one_sided(K: Tensor, L: Tensor, eps: float = 1e-5) -> Tensor:
    """The published form: R = K H (K H + eps n I)^-1, tr(R_K R_L)."""
    n = K.shape[0]
    eye = torch.eye(n, dtype=K.dtype)
    H = eye - 1 / n

    def ratio(A: Tensor) -> Tensor:
        return A @ H @ torch.linalg.inv(A @ H + eps * n * eye)

    return (ratio(K) * ratio(L).T).sum()


@each_wide_dtype
@pytest.mark.parametrize("n", [2, 3, 64, 257])
def test_forward(dtype: torch.dtype, n: int) -> None:
    x, z = features(n, 40, dtype), features(n, 30, dtype, seed=4)
    truth = reference.nhsic(
        reference.gaussian_gram(x.double(), 1 / (50 * 40)),
        reference.gaussian_gram(z.double(), 1 / (50 * 30)),
    )
    value = bx.nhsic(x, z)
    assert value.dtype == dtype
    assert relative_error(value, truth) < (1e-9 if dtype == torch.float64 else 1e-4)
    assert -1e-6 <= float(value) <= n - 1 + 1e-6


def test_symmetric_form_equals_the_published_one_sided_form() -> None:
    K, L = gram(20) + 1, gram(20, seed=5) + 1
    measure = NhsicMeasure()
    value = measure.value(measure.prepare(K), measure.prepare(L))
    assert float(value) == pytest.approx(float(one_sided(K, L)), rel=1e-8)


def test_backward() -> None:
    K = gram(33).requires_grad_()
    M = gram(33, seed=5)
    symmetrised = (K + K.T) / 2
    (truth,) = torch.autograd.grad((nhsic_factor(symmetrised)[0] * M).sum(), K)
    (value,) = torch.autograd.grad((torch.ops.bido_ext.nhsic_factor(K, 1e-5)[0] * M).sum(), K)
    assert relative_error(value, truth) < 1e-7


@pytest.mark.parametrize("linalg_dtype", [None, torch.float32, torch.float64])
def test_gradient_against_float64(linalg_dtype: torch.dtype | None) -> None:
    x, y = features(96, 700), torch.arange(96) % 7
    truth = x.clone().requires_grad_()
    bx.nhsic(truth, y).backward()
    leaf = x.float().requires_grad_()
    bx.nhsic(leaf, y, linalg_dtype=linalg_dtype).backward()
    tolerance = 2e-3 if linalg_dtype == torch.float32 else 5e-5  # design: 1e-5 .. 9e-4 in float32
    assert relative_error(leaf.grad, truth.grad) < tolerance


@pytest.mark.parametrize(
    "labels",
    [torch.arange(12) % 3, torch.arange(9), torch.zeros(6, dtype=torch.int64),
     torch.tensor([0, 0, 0, 5, 5, 2, 9])],
    ids=["balanced", "all different", "one class", "ragged"],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_label_factor_needs_no_factorisation(labels: Tensor, scale: float) -> None:
    n = labels.shape[0]
    L = (labels[:, None] == labels[None]).double() * scale
    expected = nhsic_factor(L, 1e-5)[0]
    value = label_factor(labels, 1e-5 * n / scale, torch.float64)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)


def test_bounds_of_the_label_term() -> None:
    labels = torch.arange(16).repeat_interleave(4)
    x = features(64, 100)
    c = 1e-5 * 64
    assert 0 <= float(bx.nhsic(x, labels)) <= 15 * 4 / (4 + c)
    assert float(bx.nhsic(x, torch.zeros(64, dtype=torch.int64))) == pytest.approx(0, abs=1e-9)


def test_permutation_invariance() -> None:
    x, y, order = features(30, 8), torch.arange(30) % 4, torch.randperm(30)
    assert float(bx.nhsic(x[order], y[order])) == pytest.approx(float(bx.nhsic(x, y)), rel=1e-9)
    assert float(bx.nhsic(x[:, torch.randperm(8)], y)) == pytest.approx(
        float(bx.nhsic(x, y)), rel=1e-9
    )


def test_gradcheck() -> None:
    x, z = features(6, 3).requires_grad_(), features(6, 2, seed=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 2, 1])
    kernel = bx.Gaussian(0.5)
    assert torch.autograd.gradcheck(lambda a, b: bx.nhsic(a, b, kernel, kernel, eps=1e-2), (x, z))
    assert torch.autograd.gradcheck(lambda a: bx.nhsic(a, labels, kernel, eps=1e-2), (x,))


def test_opcheck() -> None:
    for dtype in (torch.float64, torch.float32):
        K = gram(6, dtype).requires_grad_()
        torch.library.opcheck(torch.ops.bido_ext.nhsic_factor, (K, 1e-3))
        P = nhsic_factor(gram(6, dtype), 1e-3)[1]
        torch.library.opcheck(torch.ops.bido_ext.nhsic_factor_backward, (gram(6, dtype), P, 1e-3))


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.nhsic(a, y), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.nhsic(x, y))
