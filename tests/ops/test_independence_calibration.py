# SPDX-License-Identifier: Apache-2.0
"""independence_test as a test: p-values uniform under independence, power, and the gamma approximation."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import features

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops._gamma_null import GammaNull

MEASURES = ("hsic", "cka", "distance_covariance", "distance_correlation")


def kolmogorov(pvalues: list[float]) -> float:
    """Distance of an empirical distribution from the uniform one, times the root of the number of values."""
    p = torch.tensor(sorted(pvalues), dtype=torch.float64)
    n = len(p)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    return float(torch.maximum((steps - p).max(), (p - steps + 1 / n).max())) * math.sqrt(n)


@pytest.mark.parametrize(
    ("measure", "estimator", "labels"),
    [
        ("hsic", "biased", False),
        ("hsic", "unbiased", True),
        ("distance_covariance", "biased", False),
    ],
)
def test_pvalues_are_uniform_under_independence(measure: str, estimator: str, labels: bool) -> None:
    generator = torch.Generator().manual_seed(11)
    pvalues = []
    for seed in range(300):
        x = torch.randn(40, 2, generator=generator)
        y = torch.randn(40, 2, generator=generator).exp()
        target = torch.randint(0, 3, (40,), generator=generator) if labels else y
        test = bx.independence_test(
            x, target, measure, permutations=199, seed=seed, estimator=estimator
        )
        pvalues.append(test.pvalue)
    assert kolmogorov(pvalues) < 1.63  # passed by 99 % of exact tests; the seed is fixed


def test_gamma_pvalues_are_about_uniform_under_independence() -> None:
    generator = torch.Generator().manual_seed(5)
    pvalues = []
    for _ in range(300):
        x, y = torch.randn(100, 1, generator=generator), torch.rand(100, 1, generator=generator)
        pvalues.append(bx.independence_test(x, y, method="gamma", sigma="median").pvalue)
    assert kolmogorov(pvalues) < 1.63


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("method", ["permutation", "gamma"])
def test_dependence_is_found(measure: str, method: str) -> None:
    """A parabola: uncorrelated, but dependent; and a label that tells a mean."""
    if method == "gamma" and measure != "hsic":
        return  # refused, as test_bad_input shows
    generator = torch.Generator().manual_seed(2)
    for seed in range(20):
        x = torch.randn(100, 1, generator=generator)
        y = x.square() + 0.5 * torch.randn(100, 1, generator=generator)
        kernel = {} if measure.startswith("distance") else {"sigma": 0.5}
        test = bx.independence_test(x, y, measure, method, permutations=199, seed=seed, **kernel)
        assert test.pvalue <= 0.01
    labels = torch.arange(100) % 3
    x = torch.randn(100, 4, generator=generator) + labels[:, None]
    assert bx.independence_test(x, labels, measure, permutations=199).pvalue == 1 / 200


def test_gamma_is_the_formula_of_the_paper() -> None:
    x, y = features(60, 2), features(60, 3, seed=1)
    test = bx.independence_test(x, y, method="gamma", sigma=1.5)
    n = 60
    K, L = (reference.gaussian_gram(v, 1 / (2 * 1.5**2 * v.shape[1])) for v in (x, y))
    Kc, Lc = reference.double_center(K), reference.double_center(L)
    off = ~torch.eye(n, dtype=torch.bool)
    mean = float((1 - K[off].mean()) * (1 - L[off].mean())) / n
    variance = float((Kc * Lc)[off].square().mean()) * 2 * (n - 4) * (n - 5)
    variance /= n * (n - 1) * (n - 2) * (n - 3)
    shape, scale = mean**2 / variance, n * variance / mean
    hsic = float((Kc * Lc).sum()) / n**2
    upper = torch.special.gammaincc(*torch.tensor([shape, n * hsic / scale], dtype=torch.float64))
    assert isinstance(test.null, GammaNull)
    assert test.pvalue == pytest.approx(float(upper), rel=1e-10)
    assert test.statistic == pytest.approx(
        float(bx.hsic(x, y, bx.Gaussian(1.5), bx.Gaussian(1.5))), rel=1e-10
    )
    assert test.null.shape == pytest.approx(shape, rel=1e-10)
    assert test.null.scale * test.null.shape == pytest.approx(mean * n**2 / (n - 1) ** 2, rel=1e-10)
    constant = bx.independence_test(torch.ones(10, 2), features(10, 2), method="gamma")
    assert (constant.statistic, constant.pvalue) == (0.0, 1.0)
