# SPDX-License-Identifier: Apache-2.0
"""Distance covariance and correlation against the textbook in float64, and the distances they stand on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from oracle import FLOORS, each_dtype, features, readable, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.distances import CLOSE, DIRECT_UP_TO, cross_distances

ESTIMATORS = ("biased", "unbiased")
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
each_shape = pytest.mark.parametrize(
    "shape", [(4, 1, 1), (5, 3, 2), (63, 37, 5), (130, 17, 16), (300, 2, 40)], ids=readable
)
MEASURES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "covariance": (bx.distance_covariance, reference.squared_distance_covariance),
    "correlation": (bx.distance_correlation, reference.squared_distance_correlation),
}
each_measure = pytest.mark.parametrize("measure", MEASURES)


def truth_of(measure: str, x: Tensor, y: Tensor, estimator: str, beta: float = 1.0) -> Tensor:
    value = MEASURES[measure][1](x.double(), y.double(), estimator == "unbiased", beta)
    return value if estimator == "unbiased" else value.sqrt()


@each_measure
@each_estimator
@each_dtype
@each_shape
def test_forward(
    measure: str, estimator: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    n, d, e = shape
    x, y = features(n, d).to(dtype), features(n, e, seed=1).to(dtype)
    value = MEASURES[measure][0](x, y, estimator)
    truth = truth_of(measure, x, y, estimator)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Computed in float64 whatever the dtype: the result alone is rounded. Unbiased values cancel.
    size = float(truth_of("covariance", x, x, "biased") * truth_of("covariance", y, y, "biased"))
    scale = max(abs(float(truth)), size if measure == "covariance" else 1.0)
    floor = FLOORS[torch.float64] if dtype == torch.float64 else 2e-7
    assert abs(float(value) - float(truth)) <= floor * scale


@each_measure
@each_estimator
@each_dtype
def test_backward(measure: str, estimator: str, dtype: torch.dtype) -> None:
    for n, d, e in ((6, 3, 2), (63, 37, 5), (130, 20, 16)):
        x, y = features(n, d).to(dtype).requires_grad_(), features(n, e, seed=1).to(dtype)
        wide = x.detach().double().requires_grad_()
        (expected,) = torch.autograd.grad(truth_of(measure, wide, y, estimator), wide)
        (actual,) = torch.autograd.grad(MEASURES[measure][0](x, y, estimator), x)
        assert actual.dtype == dtype
        # The factor of the gradient comes through a float32 result; half precision rounds it once more.
        floor = {torch.float64: 1e-11, torch.float32: 1e-6}.get(dtype, FLOORS[dtype])
        assert relative_error(actual, expected) < floor


@each_measure
@each_estimator
@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7])
def test_powers_of_distances(measure: str, estimator: str, beta: float) -> None:
    x, y = features(40, 3), features(40, 21, seed=1)
    value = MEASURES[measure][0](x, y, estimator, beta)
    assert relative_error(value, truth_of(measure, x, y, estimator, beta)) < 1e-11


@each_measure
@each_estimator
def test_gradcheck(measure: str, estimator: str) -> None:
    x, y = features(7, 3).requires_grad_(), features(7, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: MEASURES[measure][0](x, y, estimator, 1.3), (x, y))


@each_measure
@each_estimator
def test_labels_stand_for_one_hot_vectors(measure: str, estimator: str) -> None:
    x, y = features(50, 4), torch.arange(50) % 3
    one_hot = torch.nn.functional.one_hot(y).double()
    own = MEASURES[measure][0]
    assert relative_error(own(x, y, estimator), own(x, one_hot, estimator)) < 1e-12
    assert relative_error(own(x, y, estimator, 0.6), own(x, one_hot, estimator, 0.6)) < 1e-12


@pytest.mark.parametrize("d", [1, 3, DIRECT_UP_TO, DIRECT_UP_TO + 1, 200])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_distances_keep_their_digits(d: int, offset: float) -> None:
    """Duplicates at distance 0 exactly, near ones to the last digits, at any offset, beside an outlier."""
    x = features(300, d) + offset
    x[7], x[8] = x[3], x[3] + 1e-9
    x[20] = x[20] + 1e4
    truth = (x[:, None] - x[None, :]).square().sum(2).sqrt()
    value = cross_distances(x, x)
    assert float(value[7, 3]) == 0.0
    apart = truth > 0
    assert float(((value - truth).abs()[apart] / truth[apart]).max()) < 1e-12 / CLOSE**0.5
    torch.testing.assert_close(cross_distances(x, x, squared=True), value.square())


@each_measure
@each_estimator
@pytest.mark.parametrize("d", [3, 40])
def test_coinciding_samples_have_gradients(measure: str, estimator: str, d: int) -> None:
    """The derivative of a distance is taken as 0 where it is 0: as the textbook's with those pairs left out."""
    x, y = features(20, d), features(20, 2, seed=1)
    x[5:8] = x[4]
    x.requires_grad_()
    (expected,) = torch.autograd.grad(truth_of(measure, x, y, estimator), x)
    (actual,) = torch.autograd.grad(MEASURES[measure][0](x, y, estimator), x)
    assert torch.isfinite(actual).all()
    assert relative_error(actual, expected) < 1e-11


@pytest.mark.parametrize("d", [3, 40])
def test_offsets_cost_no_digits(d: int) -> None:
    x, y = features(100, d), features(100, 2, seed=1)
    (plain,) = torch.autograd.grad(bx.distance_covariance(x.requires_grad_(), y), x)
    far = (x.detach() + 2.0**17).requires_grad_()
    value = bx.distance_covariance(far, y)
    (shifted,) = torch.autograd.grad(value, far)
    assert (
        relative_error(value.detach(), bx.distance_covariance(x, y).detach()) < 1e-10
    )  # the addition rounds x
    assert relative_error(shifted, plain) < 1e-9


@each_measure
def test_a_constant_variable_gives_zero(measure: str) -> None:
    x = torch.ones(8, 3, dtype=torch.float64).requires_grad_()
    for estimator in ESTIMATORS:
        value = MEASURES[measure][0](x, features(8, 2), estimator)
        (grad,) = torch.autograd.grad(value, x)
        assert float(value) == 0.0
        assert torch.equal(grad, torch.zeros_like(grad))


def test_known_value() -> None:
    """Two points at distance 1 against two at distance 2: A = +-1/2, B = +-1, dCov^2 = 4 * 1/2 / 4."""
    x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [2.0]]).double()
    assert float(bx.distance_covariance(x, y)) == pytest.approx(math.sqrt(0.5))
    assert float(bx.distance_correlation(x, y)) == pytest.approx(1.0)


def test_compile() -> None:
    x = features(6, 3).requires_grad_()
    compiled = torch.compile(bx.distance_covariance, fullgraph=True, backend="aot_eager")
    y = features(6, 2, seed=1)
    value = compiled(x, y)
    assert relative_error(value, bx.distance_covariance(x, y)) < 1e-12
    torch.testing.assert_close(
        torch.autograd.grad(value, x), torch.autograd.grad(bx.distance_covariance(x, y), x)
    )


def test_transforms() -> None:
    x, y = features(6, 3), features(6, 2, seed=1)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(bx.distance_covariance(leaf, y), leaf)
    torch.testing.assert_close(torch.func.grad(bx.distance_covariance)(x, y), expected)


def test_a_second_derivative_is_refused() -> None:
    x = features(6, 3).requires_grad_()
    value = bx.distance_covariance(x, features(6, 2, seed=1))
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="a second derivative is not supported"):
        grad.sum().backward()


@each_measure
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"estimator": "fast"}, ValueError, "estimator must be one of biased, unbiased; got 'fast'"),
        ({"beta": 2.0}, ValueError, "beta must be between 0 and 2, got 2.0"),
        ({"beta": 0}, ValueError, "beta must be positive and finite, got 0"),
        ({"beta": "1"}, TypeError, "beta must be a number, got str"),
        ({"y": torch.rand(5, 2)}, ValueError, "same number of samples, got 6 and 5"),
        ({"y": torch.rand(6)}, ValueError, r"y must have shape \(n, d\)"),
        ({"x": torch.full((6, 2), torch.nan)}, ValueError, r"x contain\(s\) NaN or Inf"),
        ({"y": torch.arange(6), "num_classes": 3}, ValueError, r"labels from 0 to 5; allowed: 0\.\.2"),
    ],
)  # fmt: skip
def test_bad_input(measure: str, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MEASURES[measure][0](**{"x": torch.rand(6, 3), "y": torch.rand(6, 2), **arguments})


@each_measure
def test_too_few_samples(measure: str) -> None:
    with pytest.raises(ValueError, match=r"x has 3 sample\(s\), at least 4"):
        MEASURES[measure][0](torch.rand(3, 2), torch.rand(3, 2), "unbiased")


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_correlation_of_far_scales_is_right_or_refused(estimator: str, d: int) -> None:
    """It has no scale. Where products of distances are no float64 numbers, it was 0 in silence."""
    x, y = features(20, d), features(20, d, seed=1)
    value = float(bx.distance_correlation(x, y, estimator))
    for scale in (1e-60, 1e60):
        assert float(bx.distance_correlation(x * scale, y, estimator)) == pytest.approx(
            value, rel=1e-11
        )
    for scale, words in ((1e-170, "x underflow float64: scale x up"), (1e160, "overflow")):
        with pytest.raises(ValueError, match=words):
            bx.distance_correlation(x * scale, y, estimator)
    assert float(bx.distance_correlation(torch.full((20, d), 0.1), y, estimator)) == 0
