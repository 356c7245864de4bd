# SPDX-License-Identifier: Apache-2.0
"""The gradient by a bandwidth, against float64 autograd of the textbook formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import bido_ext as bx
from bido_ext import reference
from bido_ext.reference.gaussian_gram import squared_distances
from bido_ext.reference.kernel_entries import (
    GAUSSIAN,
    LAPLACIAN,
    RATIONAL_QUADRATIC,
    entry_of_distance,
)

N, D, E = 150, 6, 3
MEASURES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "hsic": (bx.hsic, reference.hsic),
    "hsic unbiased": (
        partial(bx.hsic, estimator="unbiased"),
        partial(reference.hsic, unbiased=True),
    ),
    "hsic streaming": (partial(bx.hsic, workspace_bytes=120_000), reference.hsic),
    "cka": (bx.cka, reference.cka),
    "cka unbiased": (partial(bx.cka, estimator="unbiased"), partial(reference.cka, unbiased=True)),
    "cka streaming": (partial(bx.cka, workspace_bytes=120_000), reference.cka),
    "nhsic": (partial(bx.nhsic, eps=1e-3), partial(reference.nhsic, eps=1e-3)),
    "coco": (bx.coco, reference.coco),
    "coco fro": (partial(bx.coco, norm="fro"), partial(reference.coco, norm="fro")),
}


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    gamma = 1 / (2 * sigma**2 * x.shape[1])
    return entry_of_distance(squared_distances(x), gamma, GAUSSIAN)


def laplacian(x: Tensor, sigma: Tensor) -> Tensor:
    return entry_of_distance(squared_distances(x), 1 / (sigma * x.shape[1] ** 0.5), LAPLACIAN)


def rational_quadratic(x: Tensor, sigma: Tensor) -> Tensor:
    gamma = 1 / (2 * 1.5 * sigma**2)
    parameters = torch.stack([gamma, torch.tensor(1.5, dtype=torch.float64)])
    return entry_of_distance(squared_distances(x), parameters, RATIONAL_QUADRATIC)


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * gaussian(x, sigma) + 2 * laplacian(x, sigma)


KERNELS: dict[str, tuple[Callable[[Tensor], bx.Kernel], Callable[[Tensor, Tensor], Tensor]]] = {
    "Gaussian": (bx.Gaussian, gaussian),
    "Laplacian": (bx.Laplacian, laplacian),
    "RationalQuadratic": (
        lambda s: bx.RationalQuadratic(1.5, s, scale_by_dim=False),
        rational_quadratic,
    ),
    "Mixture": (lambda s: bx.Mixture([bx.Gaussian(s), bx.Laplacian(s)], [0.5, 2.0]), mixture),
}


def batch(dtype: torch.dtype, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator)
    y = torch.randn(N, E, generator=generator) + x[:, :E]
    return (x + offset).to(dtype), (y + offset).to(dtype)


def truth(
    measure: Callable[..., Tensor], gram: Callable[..., Tensor], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    sigmas = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (0.7, 1.3)]
    value = measure(gram(x.double(), sigmas[0]), gaussian(y.double(), sigmas[1]))
    return torch.autograd.grad(value, sigmas)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("dtype", "offset", "bound"),
    [
        (torch.float64, 0.0, 1e-9),
        (torch.float32, 0.0, 2e-5),
        (torch.float32, 1e4, 2e-5),
        (torch.bfloat16, 0.0, 2e-5),
    ],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_measures(measure: str, dtype: torch.dtype, offset: float, bound: float) -> None:
    function, formula = MEASURES[measure]
    x, y = batch(dtype, offset)
    sigmas = [torch.tensor(s, requires_grad=True) for s in (0.7, 1.3)]
    value = function(x, y, bx.Gaussian(sigmas[0]), bx.Gaussian(sigmas[1]))
    found = torch.autograd.grad(value, sigmas)
    fixed = (bx.Gaussian(float(s.detach())) for s in sigmas)
    torch.testing.assert_close(value, function(x, y, *fixed), rtol=1e-5, atol=0)
    # sigma is float32, and 0.7 is not 0.7 there.
    for got, want in zip(found, truth(formula, gaussian, x, y), strict=True):
        assert abs(got - want) <= (bound + 2e-6) * abs(want)


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels(measure: str, kernel: str) -> None:
    function, formula = MEASURES[measure]
    of_sigma, gram = KERNELS[kernel]
    x, y = batch(torch.float32)
    sigmas = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (0.7, 1.3)]
    value = function(x, y, of_sigma(sigmas[0]), bx.Gaussian(sigmas[1]))
    for got, want in zip(
        torch.autograd.grad(value, sigmas), truth(formula, gram, x, y), strict=True
    ):
        assert abs(got - want) <= 2e-5 * abs(want)


@pytest.mark.parametrize("scale", [True, False])
def test_gaussian_gram(scale: bool) -> None:
    x, _ = batch(torch.float32, 100.0)
    weights = torch.randn(N, N, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor(1.5, requires_grad=True)
    (found,) = torch.autograd.grad((bx.gaussian_gram(x, sigma, scale) * weights).sum(), sigma)
    wide = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    K = reference.gaussian_gram(x.double(), 1 / (2 * wide**2 * (D if scale else 1)))
    (want,) = torch.autograd.grad((K * weights.double()).sum(), wide)
    assert abs(found - want) <= 2e-5 * abs(want)


def test_one_sigma_of_both_and_its_graph() -> None:
    x, y = batch(torch.float64)
    log_sigma = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(bx.hsic(x, y, sigma=log_sigma.exp()), log_sigma)
    sigma = log_sigma.exp()
    (want,) = torch.autograd.grad(reference.hsic(gaussian(x, sigma), gaussian(y, sigma)), log_sigma)
    torch.testing.assert_close(found, want)


def test_mmd() -> None:
    x, y = batch(torch.float64)
    sigma = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(bx.mmd(x[:, :E], y, sigma=sigma), sigma)
    both = torch.cat([x[:, :E], y])
    (want,) = torch.autograd.grad(reference.mmd(gaussian(both, sigma), N), sigma)
    torch.testing.assert_close(found, want)


def test_compiled() -> None:
    torch._dynamo.reset()
    x, y = batch(torch.float64)
    sigma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)

    def value(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        return bx.hsic(x, y, sigma=sigma)

    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x, y, sigma), sigma)
    (want,) = torch.autograd.grad(value(x, y, sigma), sigma)
    torch.testing.assert_close(found, want)


def test_no_gradient_is_refused_not_silent() -> None:
    x, y = batch(torch.float64)
    sigma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    loss = bx.BiDOLoss("hsic", sigma=sigma)
    labels = torch.arange(N) % 3
    for function in (
        lambda x: bx.hsic(x, y, sigma=sigma),
        lambda x: bx.gaussian_gram(x, sigma).sum(),
        lambda x: bx.hsic(x, y, bx.Mixture([bx.Gaussian(sigma)])),
        lambda x: bx.mmd(x[:, :E], y, sigma=sigma),
        lambda x: loss(x, [y], labels),
    ):
        with pytest.raises(NotImplementedError, match=r"sigma that requires a gradient.*detach"):
            torch.func.grad(function)(x)
    value = bx.hsic(x, y, sigma=sigma)
    (first,) = torch.autograd.grad(value, sigma, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first, sigma)


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_loss(measure: str) -> None:
    """Per layer, learnt with the loss's own parameters, over a copy and a file of its state."""
    x, y = batch(torch.float64)
    labels = torch.arange(N) % 3
    sigmas = {name: nn.Parameter(torch.tensor(s)) for name, s in (("a.0", 0.8), ("b", 1.6))}
    criterion = copy.deepcopy(bx.BiDOLoss(measure, 0.5, 2.0, sigma=sigmas, eps=1e-3))
    kept = list(criterion.parameters())
    assert len(kept) == 2
    layers = {"a.0": y.clone().requires_grad_(), "b": (x * 2).requires_grad_()}
    criterion(x, layers, labels).backward()
    formula = MEASURES[measure][1]
    same = (labels[:, None] == labels).double()
    wide = [s.detach().double().requires_grad_() for s in sigmas.values()]
    total = sum(
        0.5 * formula(gaussian(x, torch.tensor(5.0, dtype=torch.float64)), K) - 2 * formula(K, same)
        for K in (gaussian(z.detach(), s) for z, s in zip(layers.values(), wide, strict=True))
    )
    for got, want in zip(kept, torch.autograd.grad(total, wide), strict=True):
        torch.testing.assert_close(got.grad.double(), want, rtol=1e-5, atol=0)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1)
    optimizer.step()
    moved = float(criterion.kernels.z["a.0"].sigma.detach())  # type: ignore[index,union-attr]
    assert moved != pytest.approx(0.8)
    other = bx.BiDOLoss(measure, sigma={n: nn.Parameter(torch.ones(())) for n in sigmas})
    other.load_state_dict(criterion.state_dict())
    assert float(other.kernels.z["a.0"].sigma.detach()) == moved  # type: ignore[index,union-attr]


def test_micro_batches_add_it_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, labels = batch(torch.float64)[0], torch.arange(N) % 3
    grads = []
    for size in (N, 40):
        sigma = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        criterion = bx.BiDOLoss("hsic", 0.5, 2.0, sigma=sigma)
        taps = bx.FeatureTaps(model, ["1"])
        if size == N:
            model(x)
            criterion(x, taps.features, labels).backward()
            sigma.grad *= 3
        else:
            bx.MicroBatchedBiDO(model, taps, criterion, size).backward(x, labels, scale=3.0)
        taps.remove()
        grads.append(sigma.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_computed_sigma_is_no_setting_of_a_loss() -> None:
    sigma = torch.ones((), requires_grad=True).exp()
    for settings in (
        {"sigma": sigma},
        {"sigma": {"a": sigma}},
        {"kernel_z": bx.Mixture([bx.Gaussian(sigma)])},
    ):
        with pytest.raises(ValueError, match=r"computed from other tensors.*nn.Parameter"):
            bx.BiDOLoss("hsic", **settings)


#: What an optimizer can make of a bandwidth. 0 gave a NaN gradient in silence, inf trained nothing, NaN blamed the
#: ridge of nhsic.
LEFT = {
    -5.0: "positive and finite, got -5.0",
    0.0: "got 0.0",
    float("inf"): "got inf",
    float("nan"): "got nan",
}


@pytest.mark.parametrize("value", LEFT)
@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_a_learnt_sigma_that_left_its_range_is_named(measure: str, value: float) -> None:
    x, z, y = torch.randn(20, 3), torch.randn(20, 4, requires_grad=True), torch.arange(20) % 3
    sigma = nn.Parameter(torch.tensor(2.0))
    losses = {
        "sigma": bx.BiDOLoss(measure, sigma=sigma),
        r"sigma\['layer'\]": bx.BiDOLoss(measure, sigma={"layer": sigma}),
        "sigma of X": bx.BiDOLoss(measure, kernel_x=bx.Mixture([bx.Laplacian(sigma)])),
    }
    kernel = bx.Gaussian(sigma)
    with torch.no_grad():
        sigma.fill_(value)
    for name, loss in losses.items():
        with pytest.raises(ValueError, match=f"^{name} must be .*{LEFT[value]}.*learning rate"):
            loss(x, {"layer": z}, y)
    with pytest.raises(ValueError, match=LEFT[value]):
        getattr(bx, measure)(x, z, kernel, kernel)


@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_a_sigma_whose_square_is_no_number_is_refused_as_a_tensor_too(value: float) -> None:
    x = torch.randn(20, 3)
    for sigma in (value, torch.tensor(value, dtype=torch.float64)):
        with pytest.raises(ValueError, match="sigma must be between 1e-140 and 1e"):
            bx.hsic(x, x, sigma=sigma)
        with pytest.raises(ValueError, match="sigma must be between 1e-140 and 1e"):
            bx.gaussian_gram(x, sigma=sigma)
