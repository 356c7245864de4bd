# SPDX-License-Identifier: Apache-2.0
"""In float64 every rival computes what bido_ext computes: values and gradients."""

from __future__ import annotations

import pytest
import torch

from benchmarks.case import OWN, CaseSpec
from benchmarks.gate import evaluate, gradient_error, relative_error, truth_of
from benchmarks.problem import make_pair
from benchmarks.registry import OPS, STEP_MEASURES, build, default_specs
from benchmarks.rivals import compiled
from benchmarks.truth import hsic_by_panels, measure_truth

NAMES = [*OPS, *(f"bido_step_{measure}" for measure in STEP_MEASURES)]


@pytest.fixture(autouse=True)
def _compile_without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph and its derivative are what can be wrong here; Inductor would take seconds each.
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.mark.parametrize("name", NAMES)
def test_rivals_equal_bido_ext(name: str) -> None:
    (spec,) = default_specs(name, smoke=True)
    case = build(spec)
    problem = case.make().to(torch.float64)
    own = evaluate(case.implementations[OWN], problem)
    truth = truth_of(case, problem)
    assert relative_error(own.value.detach(), truth.value) < 1e-11
    assert gradient_error(own.grads, truth.grads) < 1e-10
    assert {"shared_eager", "compiled"} <= set(case.implementations)
    for rival, function in case.implementations.items():
        if rival == "keops":  # its thread pool must not enter this process
            continue
        result = evaluate(function, problem)
        value, gradient = (
            relative_error(result.value.detach(), own.value.detach()),
            gradient_error(result.grads, own.grads),
        )
        assert value < 1e-9, f"{rival}: value off by {value:.1e}"
        # The published inverse is of a matrix with condition 1e5 that is not symmetric.
        assert gradient < 1e-7, f"{rival}: gradient off by {gradient:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_measures_depend_on_their_layers(name: str) -> None:
    """A case whose truth has a vanishing gradient would let every rival through the gate."""
    (spec,) = default_specs(name, smoke=True)
    case = build(spec)
    truth = truth_of(case, case.make().to(torch.float64))
    assert all(float(grad.abs().max()) > 1e-9 for grad in truth.grads)


@pytest.mark.parametrize("rows", [7, 16, 50, 64])
def test_panel_truth_equals_dense_truth(rows: int) -> None:
    problem = make_pair(50, 9).to(torch.float64)
    dense = evaluate(lambda p: measure_truth("hsic", p), problem)
    panels = evaluate(lambda p: hsic_by_panels(p, rows), problem)
    assert relative_error(panels.value.detach(), dense.value.detach()) < 1e-12
    assert gradient_error(panels.grads, dense.grads) < 1e-12


def test_spec_survives_json() -> None:
    spec = CaseSpec("bido_step_nhsic", 8, (4, 3, 2), 5)
    assert CaseSpec.from_json(spec.to_json()) == spec
    assert spec.with_rows(3) == CaseSpec("bido_step_nhsic", 3, (4, 3, 2), 5)


@pytest.mark.parametrize("name", ["hsci", "bido_step_cka", "nhsic_", "bido_step_"])
def test_unknown_benchmark_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="no benchmark is called"):
        default_specs(name)
