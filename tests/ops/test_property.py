# SPDX-License-Identifier: Apache-2.0
"""Right within a stated budget, or refused with a reason from a list, for random inputs of any kind."""

from __future__ import annotations

import property_cases as cases
import pytest
from compositions import serve_compositions
from hypothesis import HealthCheck, given, settings
from property_cases import Case
from property_strategies import a_case

FAST, SLOW = 300, 20_000


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
        serve_compositions(monkeypatch)
    _run(FAST)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["native", "composition"])
def test_right_or_refused_many(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation == "composition":
        serve_compositions(monkeypatch)
    _run(SLOW)
