# SPDX-License-Identifier: Apache-2.0
"""``bido study`` on the folder of a run, and ``bido study score`` on saved answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from study_stand_ins import the_answers
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.experiments.demo import run_demo
from bido_ext.lab.experiments.presets import find_preset
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.study import read_study

SWEEP = (("none", {}), ("bido-coco", {"lambda_x": 1.0, "lambda_y": 50.0}))


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    run_demo(replace(find_preset("smoke"), sweep=SWEEP), out, options=RunOptions(progress=False))
    torch.set_num_threads(before)
    return out


def test_a_run_becomes_a_page_and_answers_a_table(run, tmp_path):
    page = tmp_path / "study.html"
    made = bido("study", run, "--out", page, "--json")
    assert made.exit_code == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["defences"] == ["none", "bido-coco-1-50"]
    assert document["identities"] == 5
    study = read_study(tmp_path / "study.json")
    assert study.digest == document["hash"]
    assert page.is_file()
    answers = tmp_path / "answers.json"
    choices = [item.order.index(1) + 1 for item in study.items]  # bido-coco each time
    answers.write_text(json.dumps(the_answers(study, [*choices[:4], 0])))
    scored = bido("study", "score", answers, "--study", tmp_path / "study.json", "--json")
    counts = {c["defence"]: c["selected"] for c in json.loads(scored.stdout)["counts"]}
    assert counts == {"none": 0, "bido-coco-1-50": 4, None: 1}
    table = bido("study", "score", answers).stdout
    assert "bido-coco-1-50 | 4 " in table
    assert "(none of them)" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--defences", "none"), "2 to 9 defences, got 1"),
        (("--defences", "none,other"), "must be among none, bido-coco-1-50, got 'other'"),
        (("--classes", "0"), "classes must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, tmp_path, arguments, message):
    result = bido("study", run, *arguments, "--out", tmp_path / "study.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_key_replaces_no_other_file(run, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    for name, message in (
        ("results.html", "results.json, which is no study"),
        ("s.json", "web page"),
    ):
        refused = bido("study", run, "--out", tmp_path / name)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert (tmp_path / "results.json").read_text() == "{}"
    assert len(list(tmp_path.iterdir())) == 1
    page = tmp_path / "page.html"
    assert [bido("study", run, "--out", page).exit_code for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("command", ["build", "score"])
def test_every_help_has_an_example(command):
    assert "Example:\n    bido study" in bido("study", command, "--help").stdout
    assert "Example:\n    bido study" in bido("study", "--help").stdout
