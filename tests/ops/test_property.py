# SPDX-License-Identifier: Apache-2.0
"""Right within a stated budget, or refused with a reason from a list, for random inputs of any kind."""

from __future__ import annotations

from dataclasses import replace

import property_cases as cases
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_cases import Case, Data

from bido_ext import _serve

FAST, SLOW = 300, 20_000


def tenths(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of one decimal, which hypothesis spreads more evenly than floats."""
    return st.integers(int(10 * low), int(10 * high)).map(lambda k: k / 10)


@st.composite
def data(draw: st.DrawFn, n: int, half: bool) -> Data:
    d = draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(cases.DTYPES if half else cases.DTYPES[:1]))
    wide = dtype == torch.float32
    return Data(
        d=d,
        rank=draw(st.integers(1, min(n, d))),
        log_scale=draw(tenths(-12, 12) if wide else tenths(-1, 1)),
        log_offset=draw(st.just(0.0) | tenths(0, 6 if wide else 1)),
        outliers=draw(st.just(0) | st.integers(0, max(0, n // 3))),
        log_outlier=draw(tenths(0, 6 if wide else 3)),
        duplicates=draw(st.booleans()),
        dtype=dtype,
    )


@st.composite
def a_case(draw: st.DrawFn, most_rows: int = 300, kernels: tuple[str, ...] = cases.KERNELS) -> Case:
    measure = draw(st.sampled_from(list(cases.VALUE)))
    kernel, kernel_y = draw(st.sampled_from(kernels)), draw(st.sampled_from(kernels))
    labels = draw(st.booleans())
    in_digits = measure == "nhsic" and "linear" in (kernel, "" if labels else kernel_y)
    if in_digits:  # the 50 digits have these alone
        kernel, kernel_y = (k if k in cases.KERNELS else "imq" for k in (kernel, kernel_y))
    n = draw(st.integers(4 if measure == "unbiased" else 2, 8 if in_digits else most_rows))
    x = draw(data(n, half=True))
    if in_digits:
        x = replace(x, d=min(x.d, 6), rank=min(x.rank, 6))
    y = None if labels else draw(data(n, half=False))
    if y is not None and in_digits:
        y = replace(y, d=min(y.d, 6), rank=min(y.rank, 6))
    return Case(
        measure, n, draw(st.integers(0, 2**31)), x, kernel, draw(tenths(-2, 3)),
        draw(st.booleans()), y, kernel_y, draw(tenths(-9, -2)), draw(st.integers(1, 7)),
    )  # fmt: skip


def _run(count: int, most_rows: int = 300, kernels: tuple[str, ...] = cases.KERNELS) -> None:
    worst: dict[str, tuple[float, Case | None]] = {}
    refused: dict[str, int] = {}

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(a_case(most_rows, kernels))
    def right_or_refused(case: Case) -> None:
        ratio, what = cases.worst_ratio(case)
        if len(what) > 10:
            words = next(w for w in cases.REFUSALS if w in what)
            refused[words] = refused.get(words, 0) + 1
        key = f"{case.measure} {what}"[:20]
        if ratio >= worst.get(key, (-1.0, None))[0]:
            worst[key] = ratio, case
        assert ratio <= 1, f"{what} is off by {ratio:.3g} budgets: {case}"

    right_or_refused()
    print(f"\n{count} cases; refused: {refused}")
    for key, (ratio, _) in sorted(worst.items()):
        if ratio > 0:
            print(f"{key:20s} worst error / budget {ratio:.3f}")


@pytest.mark.parametrize("implementation", ["native", "composition"])
def test_right_or_refused(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation == "composition":
        _compositions_alone(monkeypatch)
    _run(FAST)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["native", "composition"])
def test_right_or_refused_many(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation == "composition":
        _compositions_alone(monkeypatch)
    _run(SLOW)


def _compositions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(forced: str | None, name: str, args: object, failed: bool) -> _serve.Function:
        return _serve._defaults[name]

    monkeypatch.setattr(_serve, "_cpu_function", function)
