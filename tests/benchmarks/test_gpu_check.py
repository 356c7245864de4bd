# SPDX-License-Identifier: Apache-2.0
"""gpu_check keeps to its budget, and a step that hangs or crashes costs itself alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.case import OWN
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import launches, libraries, schedule
from benchmarks.gpu_check.process import Ended, run_limited
from benchmarks.gpu_check.steps import RIVALS, STEP_MEASURES, STEPS, Step
from benchmarks.gpu_check.table import text_table
from benchmarks.rivals import measure_rivals

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    child = f"import time; time.sleep(3); open({str(tmp_path / 'alive')!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); print('on', flush=True); time.sleep(60)"
    start = time.monotonic()
    ended = run_limited(python(code), 1.5)
    assert ended.exit is None
    assert time.monotonic() - start < 4
    assert ended.said == "on\n"
    time.sleep(3)
    assert not (tmp_path / "alive").exists()


def test_a_crash_is_an_exit_code() -> None:
    ended = run_limited(python("import os; os.abort()"), 20)
    assert ended.exit == -6


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of tens of seconds, and no libraries, which these steps do not use."""
    monkeypatch.setattr(schedule, "SHORTEST", 2.0)
    monkeypatch.setattr(schedule, "LEAST", 0.5)
    monkeypatch.setattr(libraries, "take_bundle", lambda card: "none")
    monkeypatch.setattr(gpu_check, "START", time.monotonic())


def test_a_step_that_hangs_or_crashes_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (
        Step("hangs", 1, lambda device, out: [python("import time; time.sleep(60)")], "nothing"),
        Step("crashes", 1, lambda device, out: [python("import os; os.abort()")], "nothing"),
        Step("works", 1, lambda device, out: [python("print(1)")], "something"),
        Step("needs more", 1, lambda device, out: [], "what a GPU shows"),
        Step(
            "lacks", 1, lambda device, out: [[sys.executable, "-c", "1/0"]], "x", package="no_such"
        ),
    )
    monkeypatch.setattr(gpu_check, "STEPS", steps)
    quick(monkeypatch)
    assert gpu_check.main(["--budget", "12", "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert time.monotonic() - gpu_check.START < 12
    told = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert {name: step["status"] for name, step in told.items()} == {
        "hangs": "cut", "crashes": "wrong", "works": "right", "needs more": "needs a GPU",
        "lacks": "needs no_such",
    }  # fmt: skip
    assert "1 stopped at the limit" in capsys.readouterr().out


class Clock:
    """Seconds that pass only while a command runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, needs: dict[str, float]) -> None:
        self.now, self.turns, self.needs = 0.0, [], needs
        monkeypatch.setattr(schedule.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(schedule, "run_limited", self.run)

    turns: list[tuple[str, float]]

    def run(self, command: list[str], limit: float) -> Ended:
        (name,) = command
        took = min(limit, self.needs[name])
        self.now += took
        self.turns.append((name, round(limit, 3)))
        return Ended(0 if took == self.needs[name] else None, took, "")


def step_of(seconds: float, *names: str, evenly: bool = False) -> Step:
    return Step(names[0], seconds, lambda device, out: [[name] for name in names], "", evenly)


def run(clock: Clock, budget: float, *steps: Step) -> dict[str, str]:
    last: dict[str, dict[str, str]] = {}

    def on_change(told: dict[str, dict[str, str]]) -> bool:
        last.update(told)
        return True

    schedule.run_steps(steps, "cpu", Path("out"), budget, on_change)
    return {name: step["status"] for name, step in last.items()}


def test_time_that_steps_leave_goes_to_those_that_had_too_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, {"long": 120, "short": 5, "tiny": 5})
    told = run(clock, 200, step_of(50, "long"), step_of(25, "short"), step_of(25, "tiny"))
    # 100 s are its share; what the others leave is enough for a second turn.
    assert clock.turns == [("long", 100), ("short", 50), ("tiny", 95)]
    assert told == {"long": "cut", "short": "right", "tiny": "right"}
    clock = Clock(monkeypatch, {"long": 60, "short": 5, "tiny": 5})
    told = run(clock, 150, step_of(20, "long"), step_of(40, "short"), step_of(40, "tiny"))
    assert clock.turns == [("long", 30), ("short", 60), ("tiny", 115), ("long", 110)]
    assert told == {"long": "right", "short": "right", "tiny": "right"}
    assert clock.now == 100


def test_commands_that_had_no_time_come_before_those_that_were_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, {"hangs": 1e9, "after": 20, "even": 4, "last": 1})
    told = run(clock, 100, step_of(20, "hangs", "after"), step_of(80, "even", "last"))
    assert clock.turns == [("hangs", 20), ("even", 80), ("last", 76), ("after", 75), ("hangs", 55)]
    assert told == {"hangs": "cut", "even": "right"}
    assert clock.now == 100  # the budget is used, and not exceeded


def test_nothing_runs_past_the_deadline_where_all_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{letter}{i}" for letter in "abc" for i in range(3)]
    clock = Clock(monkeypatch, dict.fromkeys(names, 1e9))
    steps = [step_of(30, *names[3 * i : 3 * i + 3], evenly=i == 1) for i in range(3)]
    told = run(clock, 90, *steps)
    assert clock.now <= 90
    assert set(told.values()) == {"cut"}
    # What hangs has no second turn as short as its first.
    assert max(sum(t == name for t, _ in clock.turns) for name in names) == 1


def test_no_step_after_a_machine_without_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = "import sys; print('no device here'); sys.exit(2)"
    never = f"open({str(tmp_path / 'ran')!r}, 'w')"
    steps = (
        Step("facts", 1, lambda device, out: [python(none)], ""),
        Step("next", 1, lambda device, out: [python(never)], ""),
    )
    monkeypatch.setattr(gpu_check, "STEPS", steps)
    quick(monkeypatch)
    assert (
        gpu_check.main(["--budget", "12", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    )
    assert "no device here" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_rivals_stand_beside_every_measure_that_has_them() -> None:
    commands = {step.name: step.commands("cuda", Path("out")) for step in STEPS}
    for measure in STEP_MEASURES:
        (own,) = [
            c for c in commands["step"] if "--step" in c and c[c.index("--step") + 1] == measure
        ]
        assert own[own.index("--rivals") + 1 :] == list(RIVALS)
        pairs = [c for c in commands["headline"] if "benchmarks.run" in c and measure in c]
        assert set(RIVALS) <= set(pairs[0])
        assert set(RIVALS) <= set(measure_rivals(measure, labels=True))
    assert set(STEP_MEASURES) == set(registry.STEP_MEASURES)


def test_steps_are_timed_beside_rivals_and_say_how(tmp_path: Path) -> None:
    out = tmp_path / "launches.json"
    monkeypatched = ["launches", "--device", "cpu", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", monkeypatched)
        assert launches.main() == 0
    rows = json.loads(out.read_text())
    made = {(row["implementation"], row["measure"]) for row in rows}
    assert made == {(n, m) for n in (OWN, *launches.RIVALS) for m in STEP_MEASURES}
    assert all(row["clock"] == "host clock" and row["eager_us"] > 0 for row in rows)
    assert all(row["input_sets"]["count"] == 1 for row in rows)


def test_a_check_that_was_made_twice_counts_once(tmp_path: Path) -> None:
    row = {
        "op": "hsic", "implementation": "cuda", "dtype": "float32", "precision": "highest", "said": "off",
    }  # fmt: skip
    rows = [{**row, "verdict": "wrong"}, {**row, "dtype": "float16", "verdict": "right"}] * 2
    (tmp_path / "right.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = {"seconds": 1, "budget": 2, "device": "cuda", "libraries": "some", "steps": {}}
    table = text_table(summary, tmp_path)
    assert "cuda 1 of 2 checks" in table
    assert table.count("WRONG") == 1


def rehearse(tmp_path: Path, budget: int, *steps: str) -> dict[str, dict[str, str]]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--budget", str(budget), "--out", str(tmp_path),
         "--device", "cpu", *(("--steps", *steps) if steps else ())],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert time.monotonic() - start < budget + 5
    assert done.returncode == 0, done.stdout
    assert len([p for p in tmp_path.iterdir() if p.is_file()]) <= 8
    return json.loads((tmp_path / "summary.json").read_text())["steps"]


def test_rehearsal_of_the_first_step(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, 120, "facts")  # far more than it takes on a quiet machine
    assert [step["status"] for step in steps.values()] == ["right"]
    check_facts(tmp_path)


def check_facts(tmp_path: Path) -> None:
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["copy_gb_s"] > 0
    assert facts["product_float64_gf_s"] > 0


# Two more processes that import PyTorch and check hsic and nhsic, as tests/serving/test_check.py does in one.
@pytest.mark.slow
def test_rehearsal_of_the_first_two_steps(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, 120, "facts", "right")
    assert [step["status"] for step in steps.values()] == ["right", "right"]
    check_facts(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "right.jsonl").read_text().splitlines()]
    assert {row["op"] for row in rows} == {"hsic", "nhsic"}


@pytest.mark.slow
def test_whole_rehearsal_reports_every_step_within_its_budget(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, 60)
    assert list(steps) == [step.name for step in STEPS]
    assert {step["status"] for step in steps.values()} <= {
        "right",
        "cut",
        "needs a GPU",
        "left out",
    }
    # A slow machine leaves the last steps out, but only once the seconds are used.
    if "left out" in {step["status"] for step in steps.values()}:
        assert sum(float(step["seconds"]) for step in steps.values()) > 45
