# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from oracle import each_wide_dtype, features, gram, relative_error

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.coco import CocoMeasure
from bido_ext.ops.group import Pairs, make_group
from bido_ext.reference.gram_stack import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR
from bido_ext.serving import on_cpu

each_norm = pytest.mark.parametrize("norm", ["spectral", "fro"])
#: The kernel of the Frobenius norm has one way up to 128 samples and another beyond.
EACH_WAY = pytest.mark.parametrize("n", [2, 3, 24, 128, 129, 250, 541])


@pytest.fixture(params=["kernel", "composition"], autouse=True)
def served_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU the Frobenius norm in float64 has a kernel of its own; the composition has to be as right."""
    if request.param == "composition":
        monkeypatch.setattr(on_cpu, "KERNELS_OF_COMPOSITIONS", False)
    return str(request.param)


def calls_of_kernel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the CPU kernels that serve from here on."""
    served = []
    takes = on_cpu._takes

    def record(kernel, name, args):  # type: ignore[no-untyped-def]
        taken = takes(kernel, name, args)
        served.extend([name] * taken)
        return taken

    monkeypatch.setattr(on_cpu, "_takes", record)
    return served


@each_norm
@each_wide_dtype
@pytest.mark.parametrize("n", [2, 3, 64, 257])
def test_forward(norm: str, dtype: torch.dtype, n: int) -> None:
    x, z = features(n, 40, dtype), features(n, 30, dtype, seed=4)
    K = reference.gaussian_gram(x.double(), 1 / (50 * 40))
    L = reference.gaussian_gram(z.double(), 1 / (50 * 30))
    value = bx.coco(x, z, norm=norm)
    assert value.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert relative_error(value, reference.coco(K, L, norm)) < tolerance


@each_norm
def test_backward(norm: str) -> None:
    x, z = features(20, 6).requires_grad_(), features(20, 4, seed=4)
    K = reference.gaussian_gram(x, 1 / (50 * 6))
    L = reference.gaussian_gram(z, 1 / (50 * 4))
    (truth,) = torch.autograd.grad(reference.coco(K, L, norm), x)
    (value,) = torch.autograd.grad(bx.coco(x, z, norm=norm), x)
    assert relative_error(value, truth) < 1e-7


@each_norm
@pytest.mark.parametrize("n", [30, 300])  # batched and one after the other
@pytest.mark.parametrize("with_gradient", [[0, 1, 2, 3], [1, 2], [0]])
def test_pairs_of_a_group_equal_single_pairs(norm: str, n: int, with_gradient: list[int]) -> None:
    y = torch.arange(n) % 4
    variables = [features(n, d, seed=d) for d in (40, 9, 5, 3)]
    for i in with_gradient:
        variables[i].requires_grad_()
    kernels = [bx.Gaussian(0.5), bx.Gaussian(0.7), bx.InverseMultiquadric(), bx.Linear(), None]
    pairs = Pairs([1, 2, 3, 0, 2, 1, 1], [0, 0, 0, 4, 4, 4, 1])
    weight = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.0, 0.7, 0.2], dtype=torch.float64)
    values = CocoMeasure(norm).values(make_group([*variables, y], kernels), pairs)
    grads = torch.autograd.grad(values @ weight, [variables[i] for i in with_gradient])
    every = [*variables, y]
    single = torch.stack([
        bx.coco(every[a], every[b], kernels[a], kernels[b], norm=norm)
        for a, b in zip(*pairs, strict=True)
    ])  # fmt: skip
    assert relative_error(values.detach(), single.detach()) < 1e-10
    expected = torch.autograd.grad(single @ weight, [variables[i] for i in with_gradient])
    for value, want in zip(grads, expected, strict=True):
        assert relative_error(value, want) < 1e-8


@each_norm
@each_wide_dtype
@pytest.mark.parametrize("wide", [True, False])
def test_opcheck(norm: str, dtype: torch.dtype, wide: bool) -> None:
    x, y = features(6, 3, dtype).requires_grad_(), features(6, 2, dtype, seed=1)
    parameters = torch.tensor([0.5, 0.8, 1.0, 1.0], dtype=torch.float64)
    kinds = [GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, GRAM]
    variables, pairs = [x, y, torch.arange(6) % 2, gram(6, dtype)], ([0, 1, 3], [2, 0, 1])
    for wanted in ([0], []):
        first = x if wanted else x.detach()
        head = ([first, *variables[1:]], parameters, kinds, *pairs, norm, wide, wanted)
        torch.library.opcheck(torch.ops.bido_ext.coco, head)
    detached = [v.detach() for v in variables]
    for wanted in ([0], [0, 1, 3], [1]):
        values, *kept = torch.ops.bido_ext.coco(
            detached, parameters, kinds, *pairs, norm, wide, wanted
        )
        grad = torch.rand(3, dtype=torch.float64)
        arguments = (grad, values, detached, parameters, *kept, kinds, *pairs, norm, wide, wanted)
        torch.library.opcheck(torch.ops.bido_ext.coco_backward, arguments)


@each_norm
def test_gradcheck(norm: str) -> None:
    x, z = features(6, 3).requires_grad_(), features(6, 2, seed=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 2, 1])
    kernel = bx.Gaussian(0.5)
    assert torch.autograd.gradcheck(lambda a, b: bx.coco(a, b, kernel, kernel, norm=norm), (x, z))
    assert torch.autograd.gradcheck(lambda a: bx.coco(a, labels, kernel, norm=norm), (x,))


@each_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_zero_where_there_is_no_dependence(norm: str, dtype: torch.dtype) -> None:
    one_class = torch.zeros(8, dtype=torch.int64)
    for x, y in [
        (torch.rand(8, 3, dtype=dtype), one_class),
        (torch.ones(8, 3, dtype=dtype), torch.arange(8) % 2),
    ]:
        leaf = x.clone().requires_grad_()
        value = bx.coco(leaf, y, norm=norm)
        value.backward()
        assert float(value) == 0
        assert torch.equal(leaf.grad, torch.zeros_like(x))


def test_frobenius_is_an_upper_bound() -> None:
    x, y = features(50, 20), torch.arange(50) % 5
    spectral, fro = float(bx.coco(x, y)), float(bx.coco(x, y, norm="fro"))
    assert spectral <= fro <= spectral * 4**0.25 * 1.0001  # rank of the label side is 4


def test_tiny_values_do_not_underflow_float32() -> None:
    x, z = features(32, 10, torch.float32), features(32, 12, torch.float32, seed=2)
    kernel = bx.Gaussian(sigma=1e6)  # Gram matrices up to centering near 1e-13
    for norm in ("spectral", "fro"):
        truth = bx.coco(x.double(), z.double(), kernel, kernel, norm=norm)
        value = bx.coco(x, z, kernel, kernel, norm=norm, linalg_dtype=torch.float32)
        assert relative_error(value, truth) < 1e-4


def test_gradient_of_tiny_features_with_labels() -> None:
    x, y = features(16, 5) * 1e-16, torch.arange(16) % 3
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = x.to(dtype, copy=True).requires_grad_()
        bx.coco(leaf, y, bx.Linear(), norm="fro", linalg_dtype=dtype).backward()
        gradients.append(leaf.grad.double())
    assert relative_error(gradients[1], gradients[0]) < 1e-5


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    for norm in ("spectral", "fro"):
        compiled = torch.compile(lambda a, n=norm: bx.coco(a, y, norm=n), fullgraph=True)
        torch.testing.assert_close(compiled(x), bx.coco(x, y, norm=norm))


def test_the_kernel_takes_the_frobenius_norm_in_float64(
    monkeypatch: pytest.MonkeyPatch, served_by: str
) -> None:
    if served_by == "composition":
        pytest.skip("the kernel is switched off")
    served = calls_of_kernel(monkeypatch)
    x, y = features(9, 4, torch.float32).requires_grad_(), torch.arange(9) % 3
    bx.coco(x, y, norm="spectral").backward()
    bx.coco(x, y, norm="fro", linalg_dtype=torch.float32).backward()
    assert served == []
    bx.coco(x, y, norm="fro").backward()
    assert set(served) == {"coco", "coco_backward"}  # of few samples in float64, the forward again


@EACH_WAY
def test_both_ways_agree_with_the_formula(n: int, served_by: str) -> None:
    """Labels with labels, a variable with itself, a Gram matrix, a variable without gradient."""
    x, z, w = (features(n, d).requires_grad_() for d in (6, 11, 4))
    w = w.detach()
    K = gram(n)
    if served_by == "kernel":  # of the user's own matrix it takes the symmetric part
        K += 0.05 * features(n, n)
    K.requires_grad_()
    coarse, fine = torch.arange(n) % 2, torch.arange(n) ** 2 % 7
    parameters = torch.tensor([1.0, 1 / (2 * 0.6**2 * 6), 0.3, 1.0, 1.0, 1.0], dtype=torch.float64)
    kinds = [LABELS, GAUSSIAN, LABELS, LINEAR, INVERSE_MULTIQUADRIC, GRAM]
    # A pair and its reverse, pairs of which no gradient is wanted.
    first, second = [0, 0, 1, 3, 2, 1, 3, 5, 5, 1, 4, 4, 0], [1, 2, 1, 2, 2, 4, 1, 1, 2, 3, 4, 2, 4]
    weight = torch.linspace(-1, 2, len(first), dtype=torch.float64)
    values = torch.ops.bido_ext.coco(
        [coarse, x, fine, z, w, K], parameters, kinds, first, second, "fro", True, [1, 3, 5]
    )[0]
    grads = torch.autograd.grad(values @ weight, (x, z, K))

    def same(y: torch.Tensor) -> torch.Tensor:
        return (y[:, None] == y[None, :]).double()

    grams = [
        same(coarse),
        reference.gaussian_gram(x, 1 / (2 * 0.6**2 * 6)),
        same(fine) * 0.3,
        z @ z.T,
        (1 + torch.cdist(w, w) ** 2) ** -0.5,
        (K + K.T) / 2,
    ]
    truth = torch.stack([
        reference.coco(grams[a], grams[b], "fro") for a, b in zip(first, second, strict=True)
    ])  # fmt: skip
    expected = torch.autograd.grad(truth.nan_to_num() @ weight, (x, z, K))
    assert relative_error(values.detach(), truth.detach()) < 1e-9
    for value, want in zip(grads, expected, strict=True):
        assert relative_error(value, want) < 1e-8


@each_norm
def test_a_group_with_labels_alone_as_partners(norm: str) -> None:
    x, z = (features(20, d).requires_grad_() for d in (5, 3))
    y = torch.arange(20) % 3
    group = make_group([x, z, y], [bx.Gaussian(0.5), bx.Gaussian(0.5), None])
    values = CocoMeasure(norm).values(group, Pairs([0, 2], [2, 1]))
    single = torch.stack([bx.coco(v, y, bx.Gaussian(0.5), norm=norm) for v in (x, z)])
    assert relative_error(values.detach(), single.detach()) < 1e-10
    for value, want in zip(
        torch.autograd.grad(values.sum(), (x, z)),
        torch.autograd.grad(single.sum(), (x, z)),
        strict=True,
    ):
        assert relative_error(value, want) < 1e-10


@EACH_WAY
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gram_matrix_that_is_not_finite_shows(n: int, bad: float) -> None:
    K = gram(n)
    K[n - 1, 0] = bad
    K.requires_grad_()
    variables, parameters = [K, torch.arange(n) % 2], torch.ones(2, dtype=torch.float64)
    value = torch.ops.bido_ext.coco(
        variables, parameters, [GRAM, LABELS], [0], [1], "fro", True, [0]
    )[0]
    (grad,) = torch.autograd.grad(value.sum(), K)
    assert not torch.isfinite(value)
    assert not torch.isfinite(grad).all()
