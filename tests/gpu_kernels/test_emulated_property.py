# SPDX-License-Identifier: Apache-2.0
"""The emulated CUDA kernels on random inputs of any kind: right within the budget, or NaN; nothing third."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_emulator import public
from hypothesis import HealthCheck, assume, given, settings
from property_strategies import a_case

FAST, SLOW = 20, 200
MEASURES = ("hsic", "unbiased", "cka", "nhsic")


def run(count: int) -> None:
    found: dict[str, float] = {}
    counts: dict[str, int] = {}

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(a_case(most_rows=140))
    def right_or_nan(case: Any) -> None:
        assume(case.measure in MEASURES)
        ratio, what = public.worst_ratio(case)
        key = f"{case.measure} {what}"
        found[key] = max(ratio, found.get(key, 0.0))
        counts[key] = counts.get(key, 0) + 1
        assert ratio <= 1, f"{what} is off by {ratio:.3g} budgets: {case}"

    right_or_nan()
    for key in sorted(found):
        print(f"{key:30s} {counts[key]:4d} cases, worst error / budget {found[key]:.3f}")


def test_right_or_nan(cuda_kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    public.serve(cuda_kernels.functions, monkeypatch)
    run(FAST)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_right_or_nan_many(
    cuda_kernels: Any, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_kernels.share_columns(shared)
    public.serve(cuda_kernels.functions, monkeypatch)
    run(SLOW)
