# SPDX-License-Identifier: Apache-2.0
"""The whole story on synthetic digits: files, reuse of finished stages, changed configurations."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import ATTACKS, invert
from bido_ext.lab.data.synthetic import synthetic_digits
from bido_ext.lab.experiments.demo import run_demo
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.pipeline import load_data, train_target
from bido_ext.lab.experiments.presets import PRESETS, DemoPreset, find_preset
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.report import Results, read_results

SWEEP = (
    ("none", {}),
    ("mid", {"beta": 0.1}),
    ("bido-hsic", {"lambda_x": 0.1, "lambda_y": 1.0}),
    ("bido-coco", {"lambda_x": 1.0, "lambda_y": 50.0}),
)
TINY = replace(find_preset("smoke"), sweep=SWEEP)
QUIET = RunOptions(on_change="rerun", progress=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def run(out: Path, preset=TINY, options: RunOptions = QUIET, seed: int = 0) -> tuple[Results, str]:
    told = io.StringIO()
    narrator = Narrator(4 + 2 * len(preset.sweep), told)
    return run_demo(preset, out, seed=seed, options=options, narrator=narrator), told.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Results, str]:
    out = tmp_path_factory.mktemp("demo")
    return (out, *run(out))


def test_the_run_leaves_the_documented_files(finished):
    out, results, told = finished
    assert read_results(out / "results.json") == results
    assert results.config["data"]["sha256"] == synthetic_digits().sha256()
    assert [row.defence for row in results.rows] == [defence for defence, _ in SWEEP]
    for row in results.rows:
        assert row.label in (out / "report.html").read_text()
        assert (out / row.picture).is_file()
        assert (out / "defences" / row.name / "model.pt").is_file()
        assert (out / "attacks" / "gmi" / row.name / "reconstructions.pt").is_file()
    for name in ("evaluator/model.pt", "second_evaluator/model.pt", "gan/gan.pt", "tradeoff.png"):
        assert (out / name).is_file()
    assert {row.second.arch for row in results.rows if row.second} == {"lenet3"}
    assert "Second judge: lenet3" in (out / "report.html").read_text()
    stages = 4 + 2 * len(SWEEP)
    assert "[ 1/12]" in told
    assert f"[{stages}/{stages}]" in told


def test_a_second_run_reuses_every_stage_and_gives_the_same_numbers(finished):
    out, results, _ = finished
    again, told = run(out)
    assert told.count("reused") == 3 + 2 * len(SWEEP)
    assert replace(again, created=results.created) == results


@pytest.fixture
def begun(finished, tmp_path) -> tuple[Path, DemoPreset]:
    """A finished run of the first defence alone, as it lies in the folder of all."""
    shutil.copytree(finished[0], tmp_path / "begun")
    short = replace(TINY, sweep=SWEEP[:1])
    _, told = run(tmp_path / "begun", short)
    assert told.count("reused") == 5
    return tmp_path / "begun", short


def test_only_what_a_change_touches_is_run_again(begun):
    out, short = begun
    other = replace(short, attack=replace(short.attack, steps=short.attack.steps + 1))
    _, told = run(out, other)
    assert told.count("reused") == 4
    assert told.count("configuration changed (settings.steps: 6 -> 7), so it is run again") == 1


def test_a_retrained_target_is_attacked_again(begun):
    out, short = begun
    retrained = replace(short, target=replace(short.target, lr=3e-3))
    _, told = run(out, retrained)
    assert told.count("configuration changed") == 2  # the model, and the attack on its weights
    assert "configuration changed (target:" in told
    longer = replace(retrained, target=replace(retrained.target, epochs=2))
    _, told = run(out, longer)
    assert told.count("continues (training.epochs: 1 -> 2)") == 1


def test_the_single_commands_make_the_stages_of_the_demo(finished):
    out, results, _ = finished
    row = results.rows[2]
    for line in row.commands:
        done = CliRunner().invoke(app, [*line.split()[1:], "--json"])
        assert done.exit_code == 0, done.stderr
        document = json.loads(done.stdout)
    assert document["attack_accuracy"] == row.attack.attack_accuracy
    assert document["frechet_distance"] == pytest.approx(row.attack.frechet_distance)
    _, told = run(out)
    assert told.count("reused") == 3 + 2 * len(SWEEP)


def test_an_interrupted_stage_continues(tmp_path):
    stage = Stage(tmp_path, {"lr": 1}, "model.pt")
    assert stage.outcome(QUIET) is None
    again = Stage(tmp_path, {"lr": 1}, "model.pt")
    assert again.outcome(QUIET) is None
    assert "interrupted" in again.note
    again.finish({"seconds": 1.0})
    assert again.outcome(QUIET) is None, "the product is missing, so the stage is not done"
    again.product.write_bytes(b"")
    assert again.outcome(QUIET) == {"seconds": 1.0}
    assert again.outcome(replace(QUIET, fresh=True)) is None
    assert not again.product.exists()


@pytest.mark.parametrize("options", [{"fresh": True}, {"on_change": "rerun"}, {}])
def test_another_kind_of_stage_is_never_started_over(tmp_path, options):
    model = Stage(tmp_path, {"stage": "target"}, "model.pt")
    assert model.outcome(QUIET) is None
    model.product.write_bytes(b"weights")
    model.finish({})
    attack = Stage(tmp_path, {"stage": "attack"}, "reconstructions.pt")
    with pytest.raises(ValueError, match=r"another stage \('target', this is 'attack'\)"):
        attack.outcome(replace(QUIET, **options))
    assert model.product.read_bytes() == b"weights"


def test_a_killed_run_ends_with_the_numbers_of_an_unbroken_one(finished, tmp_path, monkeypatch):
    calls = []

    def killed_at_the_second(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return invert(*arguments, **options)

    spec = replace(ATTACKS["gmi"], run=killed_at_the_second)
    monkeypatch.setitem(ATTACKS, "gmi", spec)
    two = replace(TINY, sweep=SWEEP[:2])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, two)
    assert not (tmp_path / "results.json").exists()
    results, told = run(tmp_path, two)
    assert told.count("reused") == 6
    assert told.count("continues where it was interrupted") == 1
    for row, unbroken in zip(results.rows, finished[1].rows[:2], strict=True):
        assert row.attack == unbroken.attack
        assert row.natural_accuracy == unbroken.natural_accuracy


def test_a_changed_configuration_is_refused_by_the_single_commands(tmp_path):
    data = load_data("synthetic")
    train_target(data, TINY.target, tmp_path, RunOptions(progress=False))
    other = replace(TINY.target, lr=0.5)
    with pytest.raises(ValueError, match=r"training.lr: 0.001 -> 0.5.*--fresh"):
        train_target(data, other, tmp_path, RunOptions(progress=False))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", "", "holds model.pt but no stage.json"),
        ("stage.json", "{", "is damaged"),
        ("stage.json", '{"format": "bido_ext.stage", "version": 1}', "is damaged"),
        ("stage.json", '{"format": "bido_ext.stage", "version": 9}', "has version 9"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Stage(tmp_path, {}, "model.pt").outcome(QUIET)
    assert (tmp_path / name).read_text() == content


def test_presets_are_consistent():
    for preset in PRESETS.values():
        assert preset.sweep[0] == ("none", {})
        configs = [preset.target_for(*point) for point in preset.sweep]
        assert len({(c.defence, tuple(c.weights.values())) for c in configs}) == len(configs)
        assert preset.with_seed(7).attack.seed == preset.with_seed(7).prior.seed == 7
    with pytest.raises(ValueError, match="quick, paper, smoke, got 'large'"):
        find_preset("large")


def test_synthetic_digits_have_the_shape_of_mnist():
    digits = synthetic_digits(20, 10, seed=3)
    assert digits.train_images.shape == (20, 28, 28)
    assert sorted(digits.test_labels) == list(range(10))
    assert digits.sha256() == synthetic_digits(20, 10, seed=3).sha256()
    with pytest.raises(ValueError, match="at least 10"):
        synthetic_digits(5, 10)
