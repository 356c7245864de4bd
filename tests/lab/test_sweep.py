# SPDX-License-Identifier: Apache-2.0
"""A sweep of weights: one table, shared stages, one report."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
import threading
import time
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.experiments import lock
from bido_ext.lab.experiments.jobs import JobsError
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes import load_recipe
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.experiments.sweep import Place, run_row, run_sweep, sweep_rows
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.report import read_results

POINTS = [("none", {}), ("bido-hsic", {"lambda_x": 0.2})]
QUIET = RunOptions(on_change="rerun", progress=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_sweep_is_one_table_and_one_report(tmp_path):
    recipe = load_recipe("mnist-mcnn-bido-hsic", smoke=True)
    told = io.StringIO()
    rows = sweep_rows(recipe, POINTS, (0.5,))
    place = Place(tmp_path, smoke=True, second_judge=True)
    results = run_sweep(rows, place, options=QUIET, narrator=Narrator(10, told))
    assert read_results(tmp_path / "results.json") == results
    assert [row.name for row in results.rows] == ["none", "bido-hsic-0.2-0.5", "none-stopped-0.5"]
    assert results.undefended is results.rows[0]
    report = (tmp_path / "report.html").read_text()
    assert "λx 0.2" in report
    assert "Smoke run" in report
    assert (tmp_path / "tradeoff.png").is_file()
    # Evaluator and generator do not depend on the defence: trained for the first row alone.
    assert told.getvalue().count("already done with this configuration, reused") == 4
    control = results.rows[2]
    assert (control.defence, control.stop, control.weights_text) == ("none", 0.5, "stopped at 50%")
    assert control.config["stop"] == 0.5
    assert "stopped at 50%" in report
    assert {row.second.arch for row in results.rows} == {"lenet3"}
    second = load_model(tmp_path / "second_evaluator" / "model.pt")[1]
    first = load_model(tmp_path / "evaluator" / "model.pt")[1]
    assert second["arch"] != first["arch"]
    assert "Second judge: lenet3" in report
    again = run_sweep(rows, place, options=QUIET, narrator=Narrator(10, io.StringIO()))
    assert again.rows == results.rows


@pytest.mark.slow
def test_jobs_give_the_rows_of_one_process(tmp_path):
    recipe = load_recipe("mnist-mcnn-bido-hsic", smoke=True)
    rows = sweep_rows(recipe, POINTS, (0.5,))
    place = Place(tmp_path / "alone", smoke=True, second_judge=True)
    results = run_sweep(rows, place, options=QUIET, narrator=Narrator(10, io.StringIO()))
    _jobs_give_the_same(rows, results, tmp_path / "jobs")


def _untimed(results):
    """The rows without what no two runs share: their seconds."""
    return [replace(row, seconds={}) for row in results.rows]


def _jobs_give_the_same(rows, alone, out):
    """Three at once in one folder, one of them killed, all begun again: the rows of one process."""
    place, story = Place(out, smoke=True, second_judge=True), io.StringIO()
    killer = threading.Thread(target=_kill, args=(out, rows[1].name), daemon=True)
    killer.start()
    with pytest.raises(JobsError, match="1 of 3 not finished.*bido-hsic.* killed by signal 9"):
        run_sweep(rows, place, jobs=3, options=QUIET, narrator=Narrator(1, story))
    assert not (out / "results.json").exists()
    told = story.getvalue()
    assert "none: done: natural accuracy" in told
    results = run_sweep(rows, place, jobs=3, options=QUIET, narrator=Narrator(1, io.StringIO()))
    assert _untimed(results) == _untimed(alone)
    logs = [(out / "points" / row.name / "progress.txt").read_text() for row in rows]
    made = sum("already done" not in _evaluator(log.split("[5/5]")[0]) for log in logs)
    assert made == 1, "the evaluation classifier was trained once"


def _evaluator(log):
    return log.split("Train the evaluation classifier")[1].split("[3/5]")[0]


def _kill(out, name):
    """Kill the process of a row as soon as its training has left a checkpoint."""
    checkpoint = out / "points" / name / "target" / "stage.json"
    while not checkpoint.exists():
        time.sleep(0.01)
    for process in multiprocessing.active_children():
        if process.name == name:
            process.kill()


def test_a_row_alone_and_another_one_at_the_same_row(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    rows = sweep_rows(load_recipe("mnist-mcnn-none", smoke=True), POINTS, ())
    place = Place(tmp_path, smoke=True)
    with (
        locked(tmp_path / "points" / "none"),
        pytest.raises(ValueError, match="another run is writing into .*points/none"),
    ):
        run_row(rows[0], place, replace(QUIET), Narrator(5, io.StringIO()))


def test_the_command_tells_and_runs_rows(tmp_path):
    command = ["sweep", "mnist-mcnn-bido-hsic", "--smoke", "--out", str(tmp_path)]
    command += ["--weights", "0.05,1", "--controls", "0.5", "--no-second-judge"]
    told = CliRunner().invoke(app, [*command, "--rows"])
    assert told.stdout.splitlines() == ["1 none", "2 bido-hsic-0.05-1", "3 none-stopped-0.5"]
    assert not list(tmp_path.iterdir())
    one = CliRunner().invoke(app, [*command, "--row", "2", "--json"])
    assert one.exit_code == 0, one.stderr
    assert json.loads(one.stdout)["row"] == "bido-hsic-0.05-1"
    assert {path.name for path in (tmp_path / "points").iterdir()} == {"bido-hsic-0.05-1"}
    assert not (tmp_path / "results.json").exists()
    for wrong, message in (("--row=4", "--row must be 1 to 3"), ("--jobs=0", "--jobs must be at")):
        refused = CliRunner().invoke(app, [*command, wrong])
        assert (refused.exit_code, message in refused.stderr) == (2, True)


def test_a_sweep_of_ked_trains_a_gan_for_each_point(tmp_path):
    arguments = ["sweep", "mnist-mcnn-bido-coco-ked", "--smoke", "--out", str(tmp_path), "--json"]
    arguments += ["--controls", "none", "--no-second-judge"]
    done = CliRunner().invoke(app, [*arguments, "--weights", "lambda_y=20,lambda_x=2"])
    if done.exit_code == 2 and "mnist" in done.stderr:
        pytest.skip("no MNIST here")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    names = [row["name"] for row in document["rows"]]
    assert names == ["none", "bido-coco-2-20"]
    assert all((tmp_path / "points" / name / "prior" / "gan.pt").is_file() for name in names)
    assert not (tmp_path / "prior").exists()
    assert "--weights lambda_y=20,lambda_x=2" in document["command"]


@pytest.mark.parametrize("points", [[], [("none", {}), ("none", {})]])
def test_points_must_differ(points):
    recipe = load_recipe("mnist-mcnn-none", smoke=True)
    with pytest.raises(ValueError, match="points must be given, each once"):
        sweep_rows(recipe, points)


@pytest.mark.parametrize("controls", [(1.0,), (0.0,), (0.5, 0.5)])
def test_controls_are_shares(controls):
    recipe = load_recipe("mnist-mcnn-none", smoke=True)
    with pytest.raises(ValueError, match="controls must be shares between 0 and 1, each once"):
        sweep_rows(recipe, POINTS, controls)


def test_a_row_meets_an_adaptive_attacker_beside_the_plain_one(tmp_path):
    """One model, two attackers; the table and the report tell both."""
    command = ["sweep", "mnist-mcnn-none", "--smoke", "--out", str(tmp_path), "--weights", ""]
    command += ["--controls", "none", "--no-second-judge"]
    command += ["--adaptive", "surrogate", "--adaptive-set", "steps=2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    results = read_results(tmp_path / "results.json")
    assert results.attackers == ("surrogate",)
    assert "--adaptive surrogate --adaptive-set steps=2" in results.command
    assert results.config["adaptive"]["surrogate"]["kind"] == "surrogate"
    ((one,),) = (row.adaptive for row in results.rows)
    assert (tmp_path / one.picture).is_file()
    assert one.attack.classes == results.rows[0].attack.classes
    folder = tmp_path / "points" / "none"
    assert {"attack", "attack-surrogate", "surrogate"} <= {path.name for path in folder.iterdir()}
    told = torch.load(folder / "attack-surrogate" / "reconstructions.pt", weights_only=True)
    assert told["config"]["adaptive"]["weights"] == one.config["weights"]
    assert "on surrogate" in done.stdout
    assert "Adaptive attackers" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            "mnist-mcnn-none",
            ["--adaptive", "oracle"],
            "adaptive must be of surrogate, surrogate.t",
        ),
        ("mnist-mcnn-none", ["--adaptive-set", "steps=1"], "--adaptive-set is for --adaptive"),
        (
            "mnist-mcnn-none",
            ["--adaptive", "surrogate", "--adaptive-set", "step=1"],
            "--adaptive-set must be name=value",
        ),
    ],
)
def test_adaptive_options_that_make_no_sense(recipe, options, message, tmp_path):
    command = ["sweep", recipe, "--smoke", "--out", str(tmp_path), "--weights", "", *options]
    done = CliRunner().invoke(app, [*command, "--defence", "none", "--controls", "none"])
    assert done.exit_code == 2
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
