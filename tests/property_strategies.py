# SPDX-License-Identifier: Apache-2.0
"""Random cases of the property tests."""

from __future__ import annotations

from dataclasses import replace

import property_cases as cases
import torch
from hypothesis import strategies as st
from property_cases import Case, Data
from property_statistics import STATISTICS, StatisticCase


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
    """A case of any measure, kernel, dtype, scale, offset, rank."""
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


@st.composite
def a_made_case(draw: st.DrawFn) -> Case:
    """A case whose kernel of x is made by PyTorch; polynomials in 50 digits, so of few samples."""
    case = draw(a_case(60, cases.EVERY_KERNEL))
    kernel = draw(st.sampled_from(cases.MADE_KERNELS))
    few = kernel == "polynomial" or "linear" in (case.kernel, case.kernel_y)
    n = min(case.n, 10) if few else case.n
    x = replace(case.x, dtype=torch.float32)
    if few:
        x = replace(x, d=min(x.d, 6), rank=min(x.rank, 6, n), log_scale=x.log_scale / 3)
    y = case.y and replace(case.y, rank=min(case.y.rank, n))
    kernel_y = case.kernel_y
    if case.measure == "nhsic" and kernel_y == "linear":
        kernel_y = "gaussian"
    return replace(case, n=n, x=x, y=y, kernel=kernel, kernel_y=kernel_y)


@st.composite
def a_statistic(draw: st.DrawFn) -> StatisticCase:
    """A case of mmd or of a distance statistic."""
    n = draw(st.integers(4, 60))
    y = None if draw(st.booleans()) else draw(data(n, half=False))
    case = Case(
        "hsic", n, draw(st.integers(0, 2**31)), draw(data(n, half=False)),
        draw(st.sampled_from(cases.EVERY_KERNEL)), draw(tenths(-2, 3)), draw(st.booleans()), y,
    )  # fmt: skip
    return StatisticCase(
        draw(st.sampled_from(STATISTICS)), draw(st.booleans()),
        draw(st.sampled_from([0.5, 1.0, 1.5])), draw(tenths(-3, 2)), case,
    )  # fmt: skip
