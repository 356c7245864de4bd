# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compositions import serve_compositions
from oracle import features, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.bandwidth import median_squared_distance

KERNELS = {
    "gaussian": bx.Gaussian(2.0),
    "gaussian unscaled": bx.Gaussian(0.7, scale_by_dim=False),
    "linear": bx.Linear(),
    "imq": bx.InverseMultiquadric(),
    "laplacian": bx.Laplacian(2.0),
    "laplacian unscaled": bx.Laplacian(0.7, scale_by_dim=False),
    "energy": bx.Energy(),
    "energy 0.7": bx.Energy(0.7),
    "energy 2": bx.Energy(2.0),
    "rational quadratic": bx.RationalQuadratic(2.0, 1.5),
    "rational quadratic unscaled": bx.RationalQuadratic(0.5, 1.0, scale_by_dim=False),
    "polynomial": bx.Polynomial(3, 0.5),
    "mixture": bx.Mixture([bx.Gaussian(1.0), bx.Laplacian(2.0)], [0.3, 0.7]),
}


def by_hand(kernel: bx.Kernel, x: Tensor) -> Tensor:
    """K of the formula in the class, differentiable; distances by differences."""
    D = (x[:, None] - x[None]).square().sum(-1)
    apart = D > 0
    root = torch.where(apart, torch.where(apart, D, 1.0).sqrt(), 0.0)
    d = x.shape[1] if getattr(kernel, "scale_by_dim", False) else 1
    if isinstance(kernel, bx.Gaussian):
        return torch.exp(-D / (2 * kernel.sigma**2 * d))
    if isinstance(kernel, bx.Laplacian):
        return torch.exp(-root / (kernel.sigma * d**0.5))
    if isinstance(kernel, bx.Energy):
        return -(root**kernel.beta)
    if isinstance(kernel, bx.RationalQuadratic):
        return (1 + D / (2 * kernel.alpha * kernel.sigma**2 * d)) ** -kernel.alpha
    if isinstance(kernel, bx.Polynomial):
        return (x @ x.T + kernel.c) ** kernel.degree
    if isinstance(kernel, bx.Mixture):
        both = zip(kernel.weights, kernel.kernels, strict=True)
        return sum((w * by_hand(k, x) for w, k in both), torch.zeros_like(D))
    return x @ x.T if isinstance(kernel, bx.Linear) else (1 + D) ** -0.5


@pytest.mark.parametrize("implementation", ["native", "composition"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("measure", ["hsic", "unbiased", "cka", "coco", "nhsic"])
@pytest.mark.parametrize("rows", ["plain", "duplicates", "offset"])
def test_values_and_gradients_of_float32(
    implementation: str, kernel: str, measure: str, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "composition":
        serve_compositions(monkeypatch)
    k = KERNELS[kernel]
    x, y = torch.randn(70, 9), torch.randn(70, 4)
    if rows == "duplicates":
        x[20:40] = x[:20]
        x[40:50] = x[:10] + 1e-4 * torch.randn(10, 9)
    if rows == "offset" and kernel != "polynomial":
        x = x + 1e4
    formula = {
        "hsic": reference.hsic,
        "unbiased": lambda K, L: reference.hsic(K, L, True),
        "cka": reference.cka,
        "coco": lambda K, L: reference.coco(K, L, "fro"),
        "nhsic": reference.nhsic,
    }[measure]
    wide = x.double().requires_grad_()
    # A linear kernel at an offset: of the centered features, or float64 loses digits as well.
    K = by_hand(k, wide - wide.mean(0) if kernel == "linear" else wide)
    truth = formula(K, by_hand(k, y.double()))
    (gradient,) = torch.autograd.grad(truth, wide)
    settings = {"unbiased": {"estimator": "unbiased"}, "coco": {"norm": "fro"}}.get(measure, {})
    leaf = x.clone().requires_grad_()
    function_ = bx.hsic if measure == "unbiased" else getattr(bx, measure)
    value = function_(leaf, y, kernel_x=k, kernel_y=k, **settings)
    value.backward()
    assert relative_error(value.detach(), truth.detach()) < (2e-5 if measure != "nhsic" else 1e-4)
    assert relative_error(leaf.grad, gradient) < (1e-5 if measure != "nhsic" else 5e-5)


def test_bad_settings() -> None:
    for make, said in (
        (lambda: bx.Energy(2.5), "beta must be above 0 and at most 2"),
        (lambda: bx.Energy(0), "beta must be positive"),
        (lambda: bx.RationalQuadratic(0.0), "alpha must be positive"),
        (lambda: bx.Laplacian("mean"), "sigma must be"),
        (lambda: bx.Polynomial(1.5), "degree must be a positive integer"),
        (lambda: bx.Mixture([bx.Linear()], [1.0, 2.0]), "weights must be one per kernel"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    with pytest.raises(TypeError, match="kernels must be a list of kernels"):
        bx.Mixture([])
    with pytest.raises(TypeError, match=r"weights must be numbers, .* give weights.detach\(\)"):
        bx.Mixture([bx.Linear()], torch.ones(1, requires_grad=True))
    with pytest.raises(ValueError, match="sigma is short for"):
        bx.hsic(torch.randn(4, 2), torch.randn(4, 2), kernel_x=bx.Linear(), sigma=1.0)


def test_sigma_is_short_for_gaussian_kernels() -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 2)
    for measure in (bx.hsic, bx.nhsic, bx.coco, bx.cka):
        named = measure(x, y, kernel_x=bx.Gaussian(2.0), kernel_y=bx.Gaussian(2.0))
        assert torch.equal(measure(x, y, sigma=2.0), named)
        labels = torch.arange(20) % 3
        assert torch.equal(
            measure(x, labels, sigma=2.0), measure(x, labels, kernel_x=bx.Gaussian(2.0))
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_integer_labels_equal_one_hot(kernel: str, measure: str) -> None:
    x, y = features(40, 9), torch.randint(0, 6, (40,))
    one_hot = F.one_hot(y, 6).double()
    function = getattr(bx, measure)
    by_label = function(x, y, kernel_y=KERNELS[kernel], num_classes=6)
    assert relative_error(by_label, function(x, one_hot, kernel_y=KERNELS[kernel])) < 1e-8


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_of_any_integer_dtype(dtype: torch.dtype) -> None:
    x, y = features(20, 4), torch.arange(20) % 3
    assert torch.equal(bx.hsic(x, y.to(dtype)), bx.hsic(x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gram_up_to_centering(kernel: str) -> None:
    x = features(30, 5)
    value = KERNELS[kernel].gram_up_to_centering(x)
    torch.testing.assert_close(
        bx.double_center(value), reference.double_center(by_hand(KERNELS[kernel], x))
    )


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20])
def test_median_heuristic(n: int) -> None:
    x = features(n, 3)
    distances = torch.pdist(x).square()
    assert float(median_squared_distance(x)) == pytest.approx(float(distances.median()))
    K = bx.gaussian_gram(x, sigma="median")
    torch.testing.assert_close(K, reference.gaussian_gram(x, 0.5 / float(distances.median())))


def test_median_of_coinciding_rows_stays_positive() -> None:
    mostly_equal = torch.zeros(8, 2)
    mostly_equal[0] = 3
    assert float(median_squared_distance(mostly_equal)) == pytest.approx(18 * 14 / 56)
    assert float(median_squared_distance(torch.ones(5, 2))) == 1
    assert torch.equal(bx.gaussian_gram(torch.ones(5, 2), sigma="median"), torch.ones(5, 5))
    assert torch.equal(bx.gaussian_gram(torch.rand(1, 2), sigma="median"), torch.ones(1, 1))


def test_a_mixture_holds_no_matrix_for_each_of_its_kernels() -> None:
    n, held = 200, []
    x = torch.randn(n, 4, requires_grad=True)
    mixture = bx.Mixture([bx.Gaussian(s) for s in (1.0, 2.0, 4.0)], [1.0, 0.5, 0.25])

    def pack(t: Tensor) -> Tensor:
        held.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        K = mixture.gram_up_to_centering(x)
    assert sum(held) < n * n
    weights = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((K * weights).sum(), x)
    parts = zip(mixture.weights, mixture.kernels, strict=True)
    total = sum(w * k.gram_up_to_centering(x) for w, k in parts)
    torch.testing.assert_close(K, total)
    (want,) = torch.autograd.grad((total * weights).sum(), x)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_a_mixture_under_transforms() -> None:
    x, y = torch.randn(20, 3, requires_grad=True), torch.arange(20) % 3
    mixture = bx.Mixture([bx.Gaussian(1.0), bx.Laplacian(2.0)])
    (want,) = torch.autograd.grad(bx.hsic(x, y, mixture), x)
    found = torch.func.grad(lambda x: bx.hsic(x, y, mixture))(x.detach())
    torch.testing.assert_close(found, want)
