# SPDX-License-Identifier: Apache-2.0
"""Kernels whose Gram matrix PyTorch makes (Polynomial, Mixture, a user's own) on inputs that leave few digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bido_ext as bx


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_gradient(f, x: Tensor) -> tuple[float, Tensor]:
    leaf = x.clone().requires_grad_()
    value = f(leaf)
    value.backward()
    assert leaf.grad is not None
    return float(value.detach()), leaf.grad.double()


def differs(a: tuple[float, Tensor], b: tuple[float, Tensor]) -> tuple[float, float]:
    return abs(a[0] - b[0]) / abs(b[0]), float((a[1] - b[1]).norm() / b[1].norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measure", ["hsic", "cka"])
@pytest.mark.parametrize("sigma", [0.6, 0.35])
def test_a_narrow_mixture_is_its_kernel_in_unbiased_estimators(
    measure: str, dtype: torch.dtype, sigma: float
) -> None:
    """K is 1e-3 to 1e-9: K - 1 cancels in the sums."""
    x, y = normal(24, 6).to(dtype), normal(24, 3, seed=1).to(dtype)
    kernel = bx.Gaussian(sigma, scale_by_dim=False)
    f = getattr(bx, measure)

    def of(k: bx.Kernel) -> tuple[float, Tensor]:
        return value_and_gradient(lambda x: f(x, y, k, estimator="unbiased"), x)

    value, gradient = differs(of(bx.Mixture([kernel])), of(kernel))
    assert value < 1e-6, value
    assert gradient < 1e-5, gradient


def test_a_mixture_beside_a_far_sample() -> None:
    x, y = normal(16, 3), normal(16, 2, seed=1)
    x[3, 1] = 1e5
    kernel = bx.Energy()

    def of(x: Tensor, k: bx.Kernel) -> tuple[float, Tensor]:
        return value_and_gradient(lambda x: bx.cka(x, y.to(x.dtype), k, estimator="unbiased"), x)

    value, gradient = differs(of(x.float(), bx.Mixture([kernel])), of(x.float().double(), kernel))
    assert value < 1e-5, value
    assert gradient < 1e-5, gradient


def test_nothing_but_round_off_is_no_number() -> None:
    """K is 1 beside the diagonal, up to the last digit: a value of it would be noise."""

    class Noisy(bx.Kernel):
        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            noise = normal(len(x), len(x)) * 1e-15
            return 1 + noise + noise.mT + 0 * x.sum()

    x, y = normal(12, 3), torch.arange(12) % 3
    with pytest.raises(ValueError, match="round-off"):
        bx.hsic(x, y, Noisy(), estimator="unbiased")
    constant = torch.ones(12, 3)
    assert float(bx.hsic(constant, y, bx.Mixture([bx.Gaussian()]), estimator="unbiased")) == 0


def test_layers_by_a_narrow_mixture() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 6)
    model = torch.nn.Sequential(layer, torch.nn.Tanh())
    batch = 3 * normal(24, 6).float()
    kernel = bx.Gaussian(0.25, scale_by_dim=False)
    similarity = bx.LayerSimilarity(model, layers=["0", "1"], kernel=bx.Mixture([kernel]))
    similarity.update(batch)
    z = layer(batch).detach().double()
    truth = float(bx.cka(z, z.float().tanh().double(), kernel, kernel, estimator="unbiased"))
    assert abs(float(similarity.compute().matrix[0, 1]) - truth) < 1e-6


@pytest.mark.parametrize("measure", ["cka", "coco"])
@pytest.mark.parametrize(
    ("kernel", "scale"),
    [
        (bx.Polynomial(4, 0.0), 1e-9),
        (bx.Polynomial(2, 0.0), 1e-13),
        (bx.Mixture([bx.Linear()]), 1e-22),
    ],
)
def test_a_gram_matrix_too_small_for_float32(measure: str, kernel: bx.Kernel, scale: float) -> None:
    """It was 0 in silence; the measures of its scaled form are numbers float32 holds."""
    x, y = (normal(12, 5) * scale).float(), torch.arange(12) % 3
    f = getattr(bx, measure)
    value = float(f(x, y, kernel))
    truth = float(f(x.double(), y, kernel))
    assert value > 0
    assert abs(value - truth) < 1e-6 * truth
    constant = torch.full((12, 5), scale)
    assert float(f(constant, y, kernel)) == 0
    compiled = float(torch.compile(lambda x: f(x, y, kernel), backend="eager")(x))
    if measure == "cka":  # makes matrices of such kernels in float64 from the start
        assert abs(compiled - truth) < 1e-6 * truth
    else:
        assert compiled != compiled


@pytest.mark.parametrize("far", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("degree", [2, 3])
def test_biased_cka_of_a_polynomial_beside_a_far_sample(degree: int, far: float) -> None:
    """float32 matrices left a gradient that was off by 4e-5 at 1e2, 1.3e-3 at 1e3, and all of it at 1e5."""
    x, y = normal(70, 6), torch.arange(70) % 4
    x[3] = far
    kernel = bx.Polynomial(degree)

    def of(x: Tensor) -> tuple[float, Tensor]:
        return value_and_gradient(lambda x: bx.cka(x, y, kernel), x)

    def of_loss(x: Tensor) -> tuple[float, Tensor]:
        loss = bx.BiDOLoss("cka", 0.0, 1.0, kernel_z=kernel)
        return value_and_gradient(lambda z: loss(x.detach(), {"z": z}, y), x)

    for f in (of, of_loss):
        value, gradient = differs(f(x.float()), f(x.float().double()))
        assert value < 1e-6, value
        assert gradient < 1e-6, gradient
