# SPDX-License-Identifier: Apache-2.0
"""Attack accuracy at equal natural accuracy, and areas under trade-off curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import a_row, some_results

from bido_ext.lab.judging import ClassMetrics
from bido_ext.lab.report import tradeoff_of, tradeoff_text
from bido_ext.lab.report.tradeoff import at_accuracy, mean_height


def control(share, natural, attack):
    row = a_row("none", natural, attack)
    return replace(row, name=f"none-{share}", config={"stop": share})


def by_class(row, shares):
    classes = tuple(ClassMetrics(i, share, 1.0, 1.0, 1.0) for i, share in enumerate(shares))
    attack = replace(row.attack, per_class=classes, attack_accuracy=sum(shares) / len(shares))
    return replace(row, attack=attack)


FULL, HALF, LITTLE = a_row("none", 0.98, 0.8), control(0.5, 0.90, 0.6), control(0.1, 0.6, 0.3)


def test_interpolation_is_that_of_numpy():
    x = torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64)
    y = torch.tensor([0.7, 0.1, 0.6], dtype=torch.float64)
    order = np.argsort(x.numpy())
    for wanted in (0.2, 0.35, 0.5, 0.77, 0.9):
        height = at_accuracy(x, y, wanted)
        expected = np.interp(wanted, x.numpy()[order], y.numpy()[order])
        assert float(height) == pytest.approx(float(expected), abs=1e-6)
    assert at_accuracy(x, y, 0.95) is None
    assert at_accuracy(x, y, 0.1) is None
    # Two models of one natural accuracy count half each.
    twice = at_accuracy(torch.tensor([0.5, 0.5, 0.6]), torch.tensor([0.2, 0.4, 0.9]), 0.5)
    assert float(twice) == pytest.approx(0.3)


def test_the_mean_height_is_the_trapezoid():
    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert float(mean_height(x, y, 0.0, 2.0)) == pytest.approx(0.5)
    assert float(mean_height(x, y, 0.5, 1.5)) == pytest.approx(0.75)
    fine = np.linspace(0.3, 1.9, 100_001)
    wanted = np.interp(fine, x.numpy(), y.numpy()).mean()
    assert float(mean_height(x, y, 0.3, 1.9)) == pytest.approx(float(wanted), abs=1e-5)


def test_a_defence_is_held_against_the_control_of_its_accuracy():
    row = a_row("mid", 0.94, 0.5, {"beta": 0.2})
    found = tradeoff_of(some_results(FULL, row, HALF, LITTLE))
    (point,) = found.at_equal_accuracy
    assert point.control == pytest.approx(0.7)
    assert point.difference == pytest.approx(-0.2)
    assert point.ci_low == point.ci_high == pytest.approx(-0.2), "all classes are alike here"
    worse = a_row("mid", 0.5, 0.1, {"beta": 2.0})
    (outside,) = tradeoff_of(some_results(FULL, worse, HALF, LITTLE)).at_equal_accuracy
    assert outside.control is outside.difference is outside.ci_low is None
    told = tradeoff_text(
        some_results(FULL, worse, HALF), tradeoff_of(some_results(FULL, worse, HALF))
    )
    assert "no control is that (in)accurate" in told
    (alone,) = tradeoff_of(some_results(FULL, row)).at_equal_accuracy
    assert alone.control is None, "one model is no curve"
    assert tradeoff_text(some_results(FULL, row), tradeoff_of(some_results(FULL, row))) == ""


def test_the_area_is_over_what_both_curves_cover():
    rows = [a_row("mid", 0.94, 0.5, {"beta": 0.2}), a_row("mid", 0.80, 0.2, {"beta": 0.4})]
    (area,) = tradeoff_of(some_results(FULL, *rows, HALF, LITTLE)).areas
    assert (area.defence, area.low, area.high) == ("mid", 0.8, 0.98)
    mine = np.interp(np.linspace(0.8, 0.98, 20_001), [0.8, 0.94, 0.98], [0.2, 0.5, 0.8]).mean()
    theirs = np.interp(np.linspace(0.8, 0.98, 20_001), [0.6, 0.9, 0.98], [0.3, 0.6, 0.8]).mean()
    assert area.area == pytest.approx(mine, abs=1e-4)
    assert area.control == pytest.approx(theirs, abs=1e-4)
    assert area.difference == pytest.approx(mine - theirs, abs=1e-4)
    assert tradeoff_of(some_results(FULL, HALF)).areas == ()


def test_intervals_resample_identities_of_all_models_together():
    # Class by class the defence is 0.1 below the control: sure, though the classes differ widely.
    hard, easy = [0.1, 0.3, 0.5, 0.7, 0.9], [0.2, 0.4, 0.6, 0.8, 1.0]
    full = by_class(a_row("none", 0.98, 0.6), easy)
    half = by_class(control(0.5, 0.90, 0.6), easy)
    row = by_class(a_row("mid", 0.94, 0.5, {"beta": 0.2}), hard)
    found = tradeoff_of(some_results(full, row, half))
    (point,) = found.at_equal_accuracy
    assert (point.ci_low, point.ci_high) == (pytest.approx(-0.1), pytest.approx(-0.1))
    (area,) = found.areas
    assert area.ci_high - area.ci_low > 0.2, "the height itself is unsure"
    draws = np.random.default_rng(0).choice(hard, (20_000, 5)).mean(1)
    spread = np.quantile(draws, 0.975) - np.quantile(draws, 0.025)
    middle = by_class(a_row("mid", 0.90, 0.5, {"beta": 0.3}), hard)
    (flat,) = tradeoff_of(
        some_results(by_class(full, hard), row, middle, by_class(half, hard))
    ).areas
    assert flat.ci_high - flat.ci_low == pytest.approx(spread, rel=0.1)
    # One defence better in some classes and worse in others is not sure.
    mixed = by_class(a_row("mid", 0.94, 0.5, {"beta": 0.2}), [1.0, 0.0, 1.0, 0.0, 0.5])
    (point,) = tradeoff_of(some_results(full, mixed, half)).at_equal_accuracy
    assert point.ci_low < -0.1 < point.ci_high
