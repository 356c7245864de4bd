# SPDX-License-Identifier: Apache-2.0
"""A sweep of weights: one table, shared stages, one report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes import load_recipe
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.experiments.sweep import run_sweep
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.report import read_results

POINTS = [("none", {}), ("bido-hsic", {"lambda_x": 0.2})]
QUIET = RunOptions(on_change="rerun", progress=False)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_sweep_is_one_table_and_one_report(tmp_path):
    recipe = load_recipe("lfw64-vgg16-bido-hsic", smoke=True)
    told = io.StringIO()
    results = run_sweep(
        recipe, POINTS, tmp_path, smoke=True, controls=(0.5,), second_judge=True,
        options=QUIET, narrator=Narrator(10, told),
    )  # fmt: skip
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
    assert {row.second.arch for row in results.rows} == {"resnet-clsh"}
    second = load_model(tmp_path / "second_evaluator" / "model.pt")[1]
    first = load_model(tmp_path / "evaluator" / "model.pt")[1]
    assert second["arch"] != first["arch"]
    assert "Second judge: resnet-clsh" in report
    again = run_sweep(
        recipe, POINTS, tmp_path, smoke=True, controls=(0.5,), second_judge=True,
        options=QUIET, narrator=Narrator(10, io.StringIO()),
    )  # fmt: skip
    assert again.rows == results.rows


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
def test_points_must_differ(points, tmp_path):
    recipe = load_recipe("lfw64-vgg16-none", smoke=True)
    with pytest.raises(ValueError, match="points must be given, each once"):
        run_sweep(recipe, points, tmp_path, smoke=True, options=QUIET)


@pytest.mark.parametrize("controls", [(1.0,), (0.0,), (0.5, 0.5)])
def test_controls_are_shares(controls, tmp_path):
    recipe = load_recipe("lfw64-vgg16-none", smoke=True)
    with pytest.raises(ValueError, match="controls must be shares between 0 and 1, each once"):
        run_sweep(recipe, POINTS, tmp_path, smoke=True, controls=controls, options=QUIET)
