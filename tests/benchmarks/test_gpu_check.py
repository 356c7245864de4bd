# SPDX-License-Identifier: Apache-2.0
"""gpu_check keeps to its budget, and a step that hangs or crashes costs itself alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check.process import run_limited
from benchmarks.gpu_check.steps import STEPS, Step

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


def test_a_step_that_hangs_or_crashes_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (
        Step("hangs", 1, lambda device, out: [python("import time; time.sleep(60)")], "nothing"),
        Step("crashes", 1, lambda device, out: [python("import os; os.abort()")], "nothing"),
        Step("works", 1, lambda device, out: [python("print(1)")], "something"),
        Step("needs more", 1, lambda device, out: [], "what a GPU shows"),
    )
    monkeypatch.setattr(gpu_check, "STEPS", steps)
    monkeypatch.setattr(gpu_check, "SHORTEST", 2.0)
    monkeypatch.setattr(gpu_check, "LEAST", 0.5)
    monkeypatch.setattr(gpu_check, "START", time.monotonic())
    assert gpu_check.main(["--budget", "12", "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert time.monotonic() - gpu_check.START < 12
    told = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert {name: step["status"] for name, step in told.items()} == {
        "hangs": "cut", "crashes": "wrong", "works": "right", "needs more": "needs a GPU",
    }  # fmt: skip
    assert "1 stopped at the limit" in capsys.readouterr().out


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


def test_rehearsal_of_the_first_steps(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, 60, "facts", "right")
    assert [step["status"] for step in steps.values()] == ["right", "right"]
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["copy_gb_s"] > 0
    assert facts["product_float64_gf_s"] > 0
    rows = [json.loads(line) for line in (tmp_path / "right.jsonl").read_text().splitlines()]
    assert {row["op"] for row in rows} == {"hsic", "nhsic"}


@pytest.mark.slow
def test_whole_rehearsal_reports_every_step_within_its_budget(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, 60)
    assert list(steps) == [step.name for step in STEPS]
    assert {step["status"] for step in steps.values()} <= {"right", "cut", "needs a GPU"}
