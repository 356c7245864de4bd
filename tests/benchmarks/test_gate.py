# SPDX-License-Identifier: Apache-2.0
"""The gate: a wrong implementation gets no time, a wrong bido_ext stops the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import registry, runner
from benchmarks.case import OWN, CaseSpec, Implementation, OpCase
from benchmarks.gate import GateError, judge, relative_error, truth_of
from benchmarks.problem import Problem
from benchmarks.registry import default_specs
from benchmarks.rivals import hand_backward
from benchmarks.runner import Settings, run_case

RIVAL = "hand_backward"


def right(problem: Problem) -> Tensor:
    return hand_backward.loss("hsic", problem)


def wrong_value(problem: Problem) -> Tensor:
    return 1.5 * right(problem).detach() + 0 * right(problem) + right(problem)


def wrong_gradient(problem: Problem) -> Tensor:
    value = right(problem)
    return value.detach() + 1.01 * (value - value.detach())


def not_a_number(problem: Problem) -> Tensor:
    return right(problem) * float("nan")


def case_with(
    monkeypatch: pytest.MonkeyPatch, name: str, function: Implementation
) -> tuple[OpCase, Problem]:
    """The hsic smoke case with one implementation replaced, also where the gate builds it anew."""
    (spec,) = default_specs("hsic", smoke=True)
    genuine = registry.build

    def build(spec: CaseSpec) -> OpCase:
        case = genuine(spec)
        return replace(case, implementations={**case.implementations, name: function})

    monkeypatch.setattr("benchmarks.gate.build", build)
    case = build(spec)
    return case, case.make().to(torch.float32)


def raises(problem: Problem) -> Tensor:
    raise RuntimeError("not enough memory\nfor this")


@pytest.mark.parametrize("wrong", [wrong_value, wrong_gradient, not_a_number, raises])
@pytest.mark.parametrize("name", [OWN, RIVAL])
def test_wrong_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Implementation
) -> None:
    case, problem = case_with(monkeypatch, name, wrong)
    verdict = judge(name, case, problem, truth_of(case, problem))
    assert verdict.refusal is not None
    assert ("raised" if wrong is raises else "off by") in verdict.refusal


@pytest.mark.parametrize("name", [OWN, RIVAL])
def test_right_passes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case, problem = case_with(monkeypatch, name, right)
    verdict = judge(name, case, problem, truth_of(case, problem))
    assert verdict.refusal is None
    assert verdict.first_call_s > 0


def test_refused_rival_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = case_with(monkeypatch, RIVAL, wrong_gradient)
    record = run_case(case, settings(rivals=[RIVAL]))
    own, rival = record["rows"]
    assert own["median_ms"] > 0
    assert rival["refusal"]
    assert not {"median_ms", "times_floor", "memory"} & set(rival)


def test_wrong_bido_ext_stops_before_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = case_with(monkeypatch, OWN, wrong_gradient)
    monkeypatch.setattr(runner, "interleaved", lambda *args, **kwargs: pytest.fail("it was timed"))
    with pytest.raises(GateError, match="no time is reported"):
        run_case(case, settings(rivals=[]))


def settings(rivals: list[str]) -> Settings:
    threads = torch.get_num_threads()
    return Settings(rounds=3, minimum_rounds=3, memory=False, threads=threads, rivals=rivals)


def test_relative_error_of_zero_is_absolute() -> None:
    assert relative_error(torch.tensor(0.25), torch.tensor(0.0, dtype=torch.float64)) == 0.25
