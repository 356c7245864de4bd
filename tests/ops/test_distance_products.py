# SPDX-License-Identifier: Apache-2.0
"""distance_products and distance covariance of two columns, against all pairs in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from oracle import relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference

CONTRACT = sys.modules["bido_ext.ops.distance_products"]
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "native": CONTRACT.distance_products,
    "default": CONTRACT._default,
}
each_product = pytest.mark.parametrize("implementation", PRODUCTS)
each_n = pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 257, 500])
KINDS = (
    "normal",
    "ties",
    "duplicates",
    "constant",
    "ascending",
    "descending",
    "outliers",
    "offset",
)
each_kind = pytest.mark.parametrize("kind", KINDS)


def pair(kind: str, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    y = y + x.square()
    if kind == "ties":
        return (3 * x).round(), (2 * y).round()
    if kind == "duplicates":
        return x[torch.arange(n) // 3], y[torch.arange(n) // 3]
    if kind == "constant":
        return x, torch.full_like(y, 7.3)
    if kind in ("ascending", "descending"):
        return x, x.sinh() * (1 if kind == "ascending" else -1)
    if kind == "outliers":
        x[n // 2] += 1e8
        y[n // 3] -= 1e9
    if kind == "offset":
        return x + 1e8, y - 1e6
    return x, y


def less_median(x: Tensor) -> Tensor:
    return x - x.median()


@each_product
@each_kind
@each_n
def test_forward(implementation: str, kind: str, n: int) -> None:
    x, y = map(less_median, pair(kind, n))
    order = x.argsort()
    value = PRODUCTS[implementation](x[order], y[order])
    assert value.shape == (1,)
    truth = float(reference.distance_products(x, y))
    assert float(value) == pytest.approx(truth, rel=1e-13, abs=0.0)


def test_ties_in_x_in_any_order() -> None:
    x, y = torch.zeros(40).double(), torch.arange(40.0).double()
    x[20:] = 1.0
    for shuffle in (torch.arange(40), torch.arange(39, -1, -1)):
        xs, at = x[shuffle].sort()
        assert float(CONTRACT.distance_products(xs, y[shuffle][at])) == 2 * 20 * 20 * 20.0


@pytest.mark.parametrize("bad", ["unsorted", "float32", "length"])
def test_refuses_what_it_does_not_take(bad: str) -> None:
    x, y = torch.arange(5.0).double(), torch.rand(5).double()
    x = {"unsorted": x.flip(0), "float32": x.float(), "length": x[:4]}[bad]
    with pytest.raises(RuntimeError, match="distance_products"):
        CONTRACT.distance_products(x, y)


def test_opcheck() -> None:
    x, y = torch.arange(5.0).double(), torch.rand(5).double()
    torch.library.opcheck(torch.ops.bido_ext.distance_products, (x, y))


def by_matrices(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """HSIC of x and y, x and x, y and y, of distances that are centered one by one."""
    n = len(x)
    off = 1 - torch.eye(n).double() if unbiased else 1.0
    centered = []
    for v in (x, y):
        D, one = reference.distance_matrix(v), n - 2 if unbiased else n
        rows = D.sum(1) - D.sum() / (2 * (n - 1 if unbiased else n))
        centered.append((D - (rows[:, None] + rows) / one) * off)
    A, B = centered
    scale = n * (n - 3) if unbiased else (n - 1) ** 2
    return torch.stack([(A * B).sum(), (A * A).sum(), (B * B).sum()]) / scale


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@each_kind
@pytest.mark.parametrize("n", [2, 3, 4, 5, 40, 300])
def test_two_columns_are_as_their_matrices(kind: str, n: int, estimator: str) -> None:
    unbiased = estimator == "unbiased"
    if unbiased and n < 4:
        pytest.skip("the unbiased estimator needs n >= 4")
    x, y = (v[:, None] for v in pair(kind, n))
    xy, xx, yy = by_matrices(x, y, unbiased).tolist()
    size = (xx * yy) ** 0.5
    # Distances of 1e8 leave few digits of what is centered entry by entry, and of the samples themselves.
    floor = 1e-6 if kind == "outliers" else 1e-11
    value, correlation = (
        float(measure(x, y, estimator)) for measure in (bx.distance_covariance, bx.distance_correlation)
    )  # fmt: skip
    square = value if unbiased else (value * n / (n - 1)) ** 2
    assert correlation <= 1.0
    if kind == "constant" or len(x.unique()) == 1:
        assert value == correlation == 0.0
        return
    assert abs(square - xy) <= floor * size + 1e-15
    if size > 1e-12:  # else rounding below the root
        truth = xy / size if unbiased else max(xy / size, 0.0) ** 0.5
        assert correlation == pytest.approx(truth, abs=1e2 * floor)


def test_a_far_sample_costs_unbiased_values_no_digits() -> None:
    x, y = (v[:, None] for v in pair("normal", 60))
    value = bx.distance_covariance(x, y, "unbiased")
    x[x.argmax()] += 2.0**30
    y[y.argmin()] -= 2.0**33
    assert relative_error(bx.distance_covariance(x, y, "unbiased"), value) < 1e-13


def test_where_a_gradient_is_wanted_all_pairs_are_taken() -> None:
    x, y = (v[:, None] for v in pair("normal", 50))
    leaf = x.clone().requires_grad_()
    value = bx.distance_covariance(leaf, y)
    (grad,) = torch.autograd.grad(value, leaf)
    assert relative_error(value.detach(), bx.distance_covariance(x, y)) < 1e-13
    wide = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(reference.distance_covariance(wide, y), wide)
    assert relative_error(grad, expected) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_powers_and_labels(dtype: torch.dtype) -> None:
    x, y = (v[:, None].to(dtype) for v in pair("normal", 60))
    truth = reference.distance_covariance(x.double(), y.double())
    floor = 1e-13 if dtype == torch.float64 else 1e-7
    assert relative_error(bx.distance_covariance(x, y), truth) < floor
    truth = reference.distance_covariance(x.double(), y.double(), 0.6)
    assert relative_error(bx.distance_covariance(x, y, beta=0.6), truth) < max(floor, 1e-11)
    labels = torch.arange(60) % 3
    one_hot = torch.nn.functional.one_hot(labels).to(dtype)
    value = bx.distance_covariance(x, labels)
    assert relative_error(value, bx.distance_covariance(x, one_hot)) < max(floor, 1e-11)


def test_a_hundred_thousand_samples_need_no_matrix() -> None:
    x = torch.rand(100_000, 1, dtype=torch.float64)  # the matrices would take 160 GB
    assert float(bx.distance_correlation(x, 2 - 3 * x)) == pytest.approx(1.0, abs=1e-9)
    # |x - y| of uniform variables: dCov^2 = E D^2 + (E D)^2 - 2 E r^2 = 1/6 + 1/9 - 7/30 = 2/45
    assert float(bx.distance_covariance(x, x)) == pytest.approx((2 / 45) ** 0.5, rel=1e-2)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    x, y = (v[:, None] for v in pair("normal", 50))
    x[3] = bad
    for measure in (bx.distance_covariance, bx.distance_correlation):
        for estimator in ("biased", "unbiased"):
            with pytest.raises(ValueError, match=r"x contain\(s\) NaN or Inf"):
                measure(x, y, estimator)
