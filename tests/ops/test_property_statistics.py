# SPDX-License-Identifier: Apache-2.0
"""mmd, the distance statistics and kernels made by PyTorch: right within a stated budget, or refused; random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import property_cases as cases
import property_statistics as statistics
import pytest
from compositions import serve_compositions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_strategies import a_made_case, a_statistic

KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], tuple[float, str]]]] = {
    "statistics": (a_statistic(), statistics.worst_ratio),
    "made kernels": (a_made_case(), cases.worst_ratio),
}


def run(kind: str, count: int) -> None:
    strategy, worst_ratio = KINDS[kind]
    worst: dict[str, float] = {}

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def right_or_refused(case: Any) -> None:
        ratio, what = worst_ratio(case)
        worst[what[-70:]] = max(ratio, worst.get(what[-70:], 0.0))
        assert ratio <= 1, f"{what} is off by {ratio:.3g} budgets: {case}"

    right_or_refused()
    print(f"\n{count} cases of {kind}:")
    for what in sorted(worst):
        print(f"{what:70s} worst error / budget {worst[what]:.3f}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["native", "composition"])
@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_right_or_refused(
    kind: str, implementation: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "composition":
        serve_compositions(monkeypatch)
    run(kind, count)
