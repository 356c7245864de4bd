# SPDX-License-Identifier: Apache-2.0
"""independence_test: every form against the measure of permuted samples, calibration, power, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from oracle import features
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops._centered_gram import CenteredGram
from bido_ext.ops.group import make_group
from bido_ext.ops.independence_test import draw_permutations

N = 150
MEASURES: dict[str, Callable[..., Tensor]] = {
    "hsic": bx.hsic,
    "cka": bx.cka,
    "distance_covariance": bx.distance_covariance,
    "distance_correlation": bx.distance_correlation,
}
CASES = [(m, e) for m in MEASURES for e in ("biased", "unbiased") if (m, e) != ("cka", "unbiased")]
each_case = pytest.mark.parametrize(("measure", "estimator"), CASES)
#: Bytes that lead to each form: plenty, no n x n matrix but a factor, and next to nothing.
BUDGETS = {"plenty": None, "little": 400_000, "least": 1}


def samples(kind: str, n: int = N) -> tuple[Tensor, Tensor]:
    x = features(n, 2)
    return {
        "thin": (x, features(n, 1, seed=1) + x[:, :1]),
        "wide": (features(n, 30), features(n, 20, seed=1)),
        "labels": (features(n, 30), torch.arange(n) % 4),
        "thin and labels": (x, torch.arange(n) % 3 + 2**40),
        "wide and many labels": (features(n, 30), torch.arange(n) // 2),
    }[kind]


def value_of(measure: str, estimator: str, x: Tensor, y: Tensor) -> float:
    own = MEASURES[measure]
    return float(own(x, y) if measure == "cka" else own(x, y, estimator=estimator))


@each_case
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    "kind", ["thin", "wide", "labels", "thin and labels", "wide and many labels"]
)
def test_null_is_the_measure_of_permuted_samples(
    measure: str, estimator: str, budget: str, kind: str
) -> None:
    x, y = samples(kind)
    test = bx.independence_test(
        x, y, measure, permutations=9, seed=3, estimator=estimator, workspace_bytes=BUDGETS[budget]
    )
    order = draw_permutations(N, 9, seed=3).long()
    expected = torch.tensor(
        [value_of(measure, estimator, x, y[p]) for p in order], dtype=torch.float64
    )
    assert test.null.shape == (9,)
    assert test.null.dtype == torch.float64
    scale = float(expected.abs().max())
    assert abs(test.statistic - float(expected[0])) < 1e-10 * scale
    assert float((test.null - expected[1:]).abs().max()) < 1e-10 * scale
    assert test.pvalue == (1 + int((expected[1:] >= expected[0] - 1e-12 * scale).sum())) / 10


def test_every_form_is_met() -> None:
    forms = {
        bx.independence_test(*samples(kind), permutations=2, workspace_bytes=budget).form
        for kind in ("thin", "wide", "labels", "thin and labels")
        for budget in BUDGETS.values()
    }
    for words in ("factors of rank", "classes, float64", "dense, float64", "made again"):
        assert any(words in form for form in forms), forms
    one_side = bx.independence_test(
        features(600, 1), features(600, 30, seed=1), permutations=2, workspace_bytes=500_000
    )
    assert one_side.form == "streaming, one side a factor"
    other = bx.independence_test(
        features(600, 30, seed=1), features(600, 1), permutations=2, workspace_bytes=500_000
    )
    assert other.form == "streaming, one side a factor"
    assert other.statistic == pytest.approx(one_side.statistic, rel=1e-11)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kind", ["wide", "labels"])
def test_float32_entries_above_the_float64_limit(
    kind: str, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = samples(kind, 1100)
    rounded = bx.independence_test(x, y, permutations=20, estimator=estimator)
    monkeypatch.setattr(sys.modules["bido_ext.ops.independence_test"], "FLOAT64_UP_TO", 2000)
    exact = bx.independence_test(x, y, permutations=20, estimator=estimator)
    assert rounded.form.endswith("float32")
    assert exact.form.endswith("float64")
    assert rounded.statistic == pytest.approx(exact.statistic, rel=1e-10)
    assert rounded.pvalue == exact.pvalue
    scale = float(exact.null.abs().max())
    assert float((rounded.null - exact.null).abs().max()) < 1e-6 * scale
    assert float((rounded.null - exact.null).abs().max()) > 0


@pytest.mark.parametrize("kernel", [bx.Linear(), bx.InverseMultiquadric(), bx.Gaussian("median")])
def test_kernels(kernel: bx.Kernel) -> None:
    x, y = samples("thin")
    test = bx.independence_test(x, y, permutations=3, kernel_x=kernel, kernel_y=kernel)
    p = draw_permutations(N, 3, 0).long()
    for b in range(3):
        truth = float(bx.hsic(x, y[p[b + 1]], kernel, kernel))
        assert float(test.null[b]) == pytest.approx(truth, rel=1e-10)


def test_a_kernel_of_the_users_own() -> None:
    class Cosine(bx.Kernel):
        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            x = x / x.norm(dim=1, keepdim=True)
            return x @ x.T

    x, y = samples("wide")
    for budget in (None, 1):
        test = bx.independence_test(x, y, permutations=2, kernel_x=Cosine(), workspace_bytes=budget)
        assert test.statistic == pytest.approx(float(bx.hsic(x, y, Cosine())), rel=1e-9)


@pytest.mark.parametrize(
    "kernel", [bx.Gaussian(), bx.Gaussian(0.5), bx.InverseMultiquadric(), bx.Linear()]
)
@pytest.mark.parametrize("d", [1, 2, 20])
def test_factors_are_the_centered_gram_matrix(kernel: bx.Kernel, d: int) -> None:
    x = features(200, d)
    K = CenteredGram(make_group([x], [kernel]), 0, keep=False)
    A = K.factor(200)
    truth = K.matrix(torch.float64)
    if A is None:  # given up early: no low rank
        assert float(torch.linalg.matrix_rank(truth, rtol=1e-10)) > 100
    else:
        assert float((A @ A.T - truth).norm() / truth.norm()) < 1e-11
    assert K.factor(1) is None or d == 1


def test_the_same_seed_gives_the_same_null() -> None:
    for kind in ("thin", "wide", "labels"):
        x, y = samples(kind)
        one, same, other = (bx.independence_test(x, y, permutations=50, seed=s) for s in (7, 7, 8))
        assert torch.equal(one.null, same.null)
        assert not torch.equal(one.null, other.null)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            threads = bx.independence_test(x, y, permutations=50, seed=7)
        finally:
            torch.set_num_threads(before)
        assert threads.pvalue == one.pvalue
        torch.testing.assert_close(threads.null, one.null, rtol=1e-11, atol=0)


def test_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    bx.independence_test(*samples("thin"), permutations=3)
    assert torch.equal(torch.rand(3), expected)


def test_ties_count() -> None:
    """Of two equal halves, a third or so of all permutations leave the statistic as it is."""
    x = torch.tensor([0.0, 0.0, 1.0, 1.0]).double()[:, None]
    y = torch.tensor([0, 0, 1, 1])
    test = bx.independence_test(x, y, permutations=3000)
    assert test.pvalue == pytest.approx(1 / 3, abs=0.03)
    coins = (torch.arange(1400) % 2).float()[:, None]
    assert (
        bx.independence_test(coins, torch.zeros(1400, dtype=torch.long), permutations=9).pvalue == 1
    )
    wide = torch.cat([coins, torch.zeros(1400, 40)], 1)
    # 2 x 2 tables: permuted statistics take few values, and float32 entries must not split them.
    y = torch.cat([torch.zeros(700), torch.ones(700)])[:, None] * torch.ones(30)
    test = bx.independence_test(wide, y, permutations=200)
    table = torch.stack(
        [((coins[:, 0] > 0) & (y[p.long(), 0] > 0)).sum() for p in draw_permutations(1400, 200, 0)]
    )
    away = (table - 350).abs()
    assert test.pvalue == (1 + int((away[1:] >= away[0]).sum())) / 201


def test_streaming_holds_no_matrix() -> None:
    """The gamma approximation of 3000 samples within 16 MB: a matrix would take 72 MB."""
    x, y = features(3000, 3), features(3000, 2, seed=1)
    whole = bx.independence_test(x, y, method="gamma")
    panels = bx.independence_test(x, y, method="gamma", workspace_bytes=1 << 24)
    assert panels.pvalue == pytest.approx(whole.pvalue, rel=1e-10)


X, Y = torch.rand(8, 3), torch.rand(8, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"measure": "mic"}, ValueError, "measure must be one of hsic, cka, distance_covariance"),
        ({"method": "chi2"}, ValueError, "method must be one of permutation, gamma; got 'chi2'"),
        ({"method": "gamma", "measure": "cka"}, ValueError, 'got measure="cka", estimator="biased"'),
        ({"method": "gamma", "estimator": "unbiased"}, ValueError, "an approximation of biased hsic"),
        ({"permutations": 0}, ValueError, "permutations must be at least 1"),
        ({"permutations": 9.0}, TypeError, "permutations must be an integer, got float"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": None}, TypeError, "seed must be an integer, got NoneType"),
        ({"kernel_x": "rbf"}, TypeError, "kernel_x must be a kernel such as Gaussian"),
        ({"kernel_y": bx.Linear(), "sigma": 1.0}, ValueError, "sigma and kernel_y are both given"),
        ({"measure": "distance_covariance", "sigma": 1.0}, ValueError, "sigma: distance_covariance has dist"),
        ({"measure": "distance_correlation", "kernel_x": bx.Linear()}, ValueError, "kernel_x: distance_corr"),
        ({"sigma": 0}, ValueError, "sigma must be positive and finite, got 0"),
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"x": torch.arange(8)}, TypeError, "x must be float64, float32, bfloat16 or float16"),
        ({"y": torch.rand(7, 2)}, ValueError, "same number of samples, got 8 and 7"),
        ({"y": torch.arange(8), "num_classes": 4}, ValueError, r"labels from 0 to 7; allowed: 0\.\.3"),
        ({"x": torch.full((8, 3), torch.inf)}, ValueError, r"x contain\(s\) NaN or Inf"),
        ({"x": X[:3], "y": Y[:3], "estimator": "unbiased"}, ValueError, r"x has 3 sample\(s\), at least 4"),
        ({"x": X[:5], "y": Y[:5], "method": "gamma"}, ValueError, r"x has 5 sample\(s\), at least 6"),
        ({"workspace_bytes": -1}, ValueError, "workspace_bytes"),
    ],
)  # fmt: skip
def test_bad_input(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bx.independence_test(**{"x": X, "y": Y, **arguments})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_samples_of_every_dtype(dtype: torch.dtype, n: int) -> None:
    x, y = features(n, 3, dtype).requires_grad_(), features(n, 2, dtype, seed=1)
    test = bx.independence_test(x, y, permutations=5)
    truth = float(reference.hsic(*(
        reference.gaussian_gram(v.detach().double(), 1 / (50 * v.shape[1])) for v in (x, y)
    )))  # fmt: skip
    assert test.statistic == pytest.approx(truth, rel=1e-9)
    assert 0 < test.pvalue <= 1


def test_it_is_shown_in_one_line() -> None:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    shown = repr(bx.independence_test(x, x, permutations=99))
    assert len(shown) < 200
    assert "pvalue=0.01, null=99 permutations" in shown
    assert "null=GammaNull(" in repr(bx.independence_test(x, x, method="gamma"))


#: Of samples whose products of Gram matrices are no float64 numbers: the statistic was NaN or 0, and the p-value
#: 1 / (1 + permutations), or 1.
EXTREMES = {
    "overflow": (1e80, "of the Gram matrix of x overflow float64: scale x down"),
    "far overflow": (1e200, "of the Gram matrix of x overflow float64: scale x down"),
    "underflow": (1e-100, "of the Gram matrix of x underflow float64: scale x up"),
    "far underflow": (1e-200, "of the Gram matrix of x underflow float64: scale x up"),
}


@pytest.mark.parametrize("method", ["permutation", "gamma"])
@pytest.mark.parametrize("case", EXTREMES)
def test_extreme_scales_are_refused_and_never_significant(case: str, method: str) -> None:
    scale, words = EXTREMES[case]
    x, y = features(30, 3), features(30, 2, seed=1)
    linear = bx.Linear()
    with pytest.raises(ValueError, match=words):
        bx.independence_test(x * scale, y, method=method, kernel_x=linear, kernel_y=linear)
    with pytest.raises(ValueError, match=words.replace(" x ", " y ").replace("scale x", "scale y")):
        bx.independence_test(y, x * scale, method=method, kernel_x=linear, kernel_y=linear)


@pytest.mark.parametrize("method", ["permutation", "gamma"])
@pytest.mark.parametrize("exponent", [-200, 200])
def test_pvalue_does_not_depend_on_the_scale(exponent: int, method: str) -> None:
    """Powers of two, up to where entries are float64 numbers and their squares hardly are."""
    x, linear = features(40, 3), bx.Linear()
    y = x[:, :1] + 2 * features(40, 1, seed=1)
    one, other = (
        bx.independence_test(z, y, "hsic", method, 99, kernel_x=linear, kernel_y=linear)
        for z in (x, x * 2.0**exponent)
    )
    assert other.pvalue == pytest.approx(one.pvalue, rel=1e-12)
    assert other.statistic == pytest.approx(one.statistic * 2.0 ** (2 * exponent), rel=1e-12)


@pytest.mark.parametrize("n", [30, 150])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", ["one class", "constant features"])
def test_of_a_constant_variable_nothing_is_left(
    kind: str, measure: str, estimator: str, n: int
) -> None:
    """The statistic was round-off divided by round-off: distance correlation 0.9 with a single class."""
    x = features(n, 3)
    y = torch.zeros(n, dtype=torch.long) if kind == "one class" else torch.full((n, 2), 0.1)
    kernels = {} if measure.startswith("distance") else {"kernel_y": bx.Linear()}
    test = bx.independence_test(x, y, measure, estimator=estimator, permutations=9, **kernels)
    assert (test.statistic, test.pvalue) == (0.0, 1.0)
    assert test.null.equal(torch.zeros(9, dtype=torch.float64))
    if (measure, estimator) == ("hsic", "biased"):
        gamma = bx.independence_test(x, y, method="gamma")
        assert (gamma.statistic, gamma.pvalue) == (0.0, 1.0)
