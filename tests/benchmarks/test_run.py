# SPDX-License-Identifier: Apache-2.0
"""The command end to end on tiny shapes, and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bido_step, run, runner
from benchmarks.case import CaseSpec
from benchmarks.isolated import memory
from benchmarks.ops import double_center
from benchmarks.registry import OPS, STEP_MEASURES
from benchmarks.results import load

THREADS = "1"


def test_smoke_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hsic.json"
    options = ["--smoke", "--op", "hsic", "--threads", THREADS, "--no-memory", "--json", str(path)]
    assert run.main([*options, "--rivals", "published", "hand_backward"]) == 0
    printed = capsys.readouterr().out
    (record,) = load(path)
    assert [row["name"] for row in record["rows"]] == ["bido_ext", "published", "hand_backward"]
    for row in record["rows"]:
        assert row["refusal"] is None
        assert 0 < row["q20_ms"] <= row["median_ms"] <= row["q80_ms"]
        assert row["times_floor"] == pytest.approx(row["median_ms"] / record["floor"]["ms"])
        assert row["name"] in printed
    assert record["machine"]["threads"] == int(THREADS)
    assert {"cpu", "cores", "torch", "python", "bido_ext", "commit", "command"} <= set(
        record["machine"]
    )
    assert str(Path.home()) not in path.read_text()


def test_memory_is_measured_in_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 512  # large enough for the allocator to ask the system: one n x n is 1 MiB
    monkeypatch.setattr(double_center, "smoke", lambda: [CaseSpec("double_center", n)])
    path = tmp_path / "center.json"
    options = ["--smoke", "--op", "double_center", "--threads", THREADS, "--json", str(path)]
    assert run.main([*options, "--rivals"]) == 0
    found = load(path)[0]["rows"][0]["memory"]
    assert found.get("error") is None
    assert found["gradient_bytes"] == 4 * n * n
    # HKH and its gradient; far from what a leak or the import of a library would show.
    assert 1.5 <= found["growth_nn"] <= 6


def test_one_large_streaming_case_without_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above --no-gate-above neither the truth nor a rival nor a product of the floor may run."""

    def forbidden(*_: object) -> None:
        pytest.fail("it ran")

    for name in ("truth_of", "judge", "floor_calls", "interleaved"):
        monkeypatch.setattr(runner, name, forbidden)
    path = tmp_path / "hsic.json"
    options = ["--op", "hsic", "--n", "1100", "--d", "4", "--threads", THREADS, "--json", str(path)]
    options += ["--modes", "streaming", "--no-times", "--no-gate-above", "1024"]
    assert run.main(options) == 0
    (record,) = load(path)
    (row,) = record["rows"]
    assert row["name"] == "bido_ext streaming"
    assert row["memory"].get("error") is None
    assert row["memory"]["gradient_bytes"] == 4 * 1100 * 4
    assert row["value_error"] is None
    assert "median_ms" not in row
    assert record["gate"].startswith("not run: n = 1100 is above --no-gate-above 1024")
    assert record["floor"]["ms"] is None
    assert "gate not run" in capsys.readouterr().out


def test_the_gate_runs_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "hsic.json"
    options = ["--smoke", "--op", "hsic", "--threads", THREADS, "--no-memory", "--json", str(path)]
    assert run.main([*options, "--rivals", "--no-gate-above", "32"]) == 0  # n = 32 is not above
    (record,) = load(path)
    assert record["gate"] == "run"
    assert record["rows"][0]["gradient_error"] is not None


def test_without_an_implementation_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "hsic.json"
    options = ["--smoke", "--op", "hsic", "--threads", THREADS, "--json", str(path)]
    assert run.main([*options, "--rivals", "--modes", "streaming"]) == 1
    assert not path.exists()


def test_child_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    found = memory(CaseSpec("double_center", 4), "shared_eager", "float32", "cpu", 1)
    assert found == {"error": "exit code 1: no message"}


def test_step_smoke(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--smoke", "--threads", THREADS, "--no-memory"]
    assert run.main([*options, "--step", "nhsic", "coco", "--rivals", "shared_eager"]) == 0
    printed = capsys.readouterr().out
    assert "bido_step_nhsic  n = 32" in printed
    assert "bido_step_coco  n = 32" in printed


def test_specs_of_a_command_line() -> None:
    specs = run.chosen_specs(run.parse(["--step", "nhsic", "--n", "64", "256"]))
    assert [(s.name, s.n, s.dims) for s in specs] == [
        ("bido_step_nhsic", 64, bido_step.DIMS),
        ("bido_step_nhsic", 256, bido_step.DIMS),
    ]
    specs = run.chosen_specs(run.parse(["--op", "hsic", "--n", "4096", "--d", "512", "2048"]))
    assert [(s.n, s.dims) for s in specs] == [(4096, (512,)), (4096, (2048,))]
    assert {s.dims for s in run.chosen_specs(run.parse(["--op", "double_center"]))} == {()}
    specs = run.chosen_specs(run.parse(["--op", "gram_stack", "--n", "8", "--d", "5", "3"]))
    assert [(s.n, s.dims) for s in specs] == [(8, (5, 3))]
    smoke = {s.name for s in run.chosen_specs(run.parse(["--smoke"]))}
    assert smoke == {*OPS, *(f"bido_step_{m}" for m in STEP_MEASURES)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to run"),
        (["--op", "hsci"], "invalid choice"),
        (["--op", "hsic", "--rounds", "3"], "--rounds must be at least 7, got 3"),
        (["--step", "nhsic", "--d", "5"], "--d goes with --op"),
        (["--op", "hsic", "--n", "0"], "must be positive"),
        (["--op", "hsic", "--dtype", "int7"], "--dtype"),
        (["--op", "hsic", "--no-times", "--no-memory"], "leave nothing to measure"),
        (["--op", "hsic", "--no-gate-above", "0"], "--no-gate-above must be positive, got 0"),
        (["--op", "hsic", "--modes", "flying"], "invalid choice"),
        (["--op", "hsic", "--n", "8", "--device", "cuda:99"], "--device"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run.parse(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
