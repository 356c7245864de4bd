# SPDX-License-Identifier: Apache-2.0
"""The command line: help with examples, JSON, exit codes and one-sentence errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.cli.options import parse_weights

COMMANDS = (
    "train", "attack", "evaluate", "demo", "run", "sweep", "data", "bench", "list", "doctor",
    "compare",
)  # fmt: skip
SMOKE = ("--preset", "smoke")


pytestmark = pytest.mark.usefixtures("one_thread")


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A target, an evaluator and an attack, made by the commands themselves."""
    out = tmp_path_factory.mktemp("cli")
    done = [
        bido("train", *SMOKE, "--defence", "bido-coco", "--weights", "1,50", "--out", out / "t"),
        bido("train", *SMOKE, "--evaluator", "--epochs", "1", "--out", out / "e"),
        bido("attack", out / "t" / "model.pt", *SMOKE, "--prior", out / "g", "--out", out / "a"),
    ]
    assert [result.exit_code for result in done] == [0, 0, 0], [r.stderr for r in done]
    return {
        "target": out / "t" / "model.pt",
        "evaluator": out / "e" / "model.pt",
        "prior": out / "g",
        "reconstructions": out / "a" / "reconstructions.pt",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    result = bido(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    bido {command}" in result.stdout


def test_the_main_help_names_every_command():
    text = bido("--help").stdout
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "bido demo --preset smoke" in text


@pytest.mark.parametrize(
    "kind", ["attacks", "defences", "models", "datasets", "presets", "recipes"]
)
def test_list_speaks_text_and_json(kind):
    rows = json.loads(bido("list", kind, "--json").stdout)
    text = bido("list", kind).stdout
    assert rows
    assert all(row["name"] in text and row["description"] in text for row in rows)


def test_list_alone_says_what_can_be_listed():
    from bido_ext.cli.list import KINDS

    result = bido("list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(KINDS)


def test_doctor_shows_backends_and_versions():
    document = json.loads(bido("doctor", "--json").stdout)
    assert {row["op"] for row in document["backends"]} >= {"gaussian_gram", "hsic", "nhsic", "coco"}
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert any(len(row["parts"]) > 2 for row in document["backends"] if row["device"] == "cuda")
    text = bido("doctor").stdout
    assert "gaussian_gram" in text
    assert all(len(line) <= 100 for line in text.splitlines()), "short lines"
    assert "    - triton: Triton kernel" in text, "a line for each candidate"
    assert " ".join(text.split()).count("the fastest measured on the device first") == 1
    assert 'extra "lab"' in text


def test_evaluate_measures_a_model(trained):
    document = json.loads(bido("evaluate", trained["target"], *SMOKE, "--json").stdout)
    assert document["test_set"] == "private classes"
    assert document["defence"] == "bido-coco"
    assert 0 <= document["natural_accuracy"] <= 1
    text = bido("evaluate", trained["evaluator"], *SMOKE).stdout
    assert "200 test images (all 10 classes" in text


def test_evaluate_judges_reconstructions(trained, tmp_path):
    picture = tmp_path / "a.png"
    arguments = ("evaluate", trained["reconstructions"], *SMOKE, "--evaluator")
    result = bido(*arguments, trained["evaluator"], "--picture", picture, "--json")
    document = json.loads(result.stdout)
    assert document["restarts"] == 3
    assert len(document["per_class"]) == 5
    assert picture.is_file()
    assert "attack top-1" in bido(*arguments, trained["evaluator"]).stdout


def test_json_is_all_that_stdout_holds(tmp_path):
    result = bido("train", *SMOKE, "--out", tmp_path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"].endswith("model.pt")
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--preset", "large"), "preset must be one of quick, paper, smoke, got 'large'"),
        (("list", "colours"), "got 'colours'"),
        (("train", "--defence", "moat", "--out", "x"), "unknown defence 'moat'"),
        (("train", "--evaluator", "--defence", "mid", "--out", "x"), "takes no --defence"),
        (("train", "--arch", "vgg", "--out", "x"), "arch must be one of"),
        (("train", "--epochs", "0", "--out", "x"), "epochs must be at least 1"),
        (("train", "--device", "toaster", "--out", "x"), "device 'toaster' cannot be used"),
        (("evaluate", "nowhere.pt"), "no checkpoint nowhere.pt"),
        (("attack", "nowhere.pt", "--prior", "p", "--out", "x"), "no checkpoint nowhere.pt"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bido(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("bido: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be written before the input is checked"


def test_files_of_the_wrong_kind_are_named(trained, tmp_path):
    cases = [
        (("evaluate", trained["reconstructions"], *SMOKE), "--evaluator must name"),
        (("evaluate", trained["prior"] / "gan.pt", *SMOKE), "not a bido_ext.model file"),
        (
            ("evaluate", trained["target"], *SMOKE, "--picture", "a.png"),
            "--picture needs reconstructions",
        ),
        (
            ("evaluate", trained["reconstructions"], *SMOKE, "--evaluator", trained["target"]),
            "num_classes=5, expected 10",
        ),
        (
            ("attack", trained["evaluator"], *SMOKE, "--prior", "p", "--out", tmp_path / "x"),
            "is it an evaluation classifier?",
        ),
        (
            ("train", *SMOKE, "--lr", "0.5", "--out", trained["target"].parent),
            "was made with another configuration",
        ),
    ]
    for arguments, message in cases:
        result = bido(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_a_failure_is_one_sentence_and_exit_code_1(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr("bido_ext.lab.experiments.pipeline.load_images", broken)
    result = bido("train", *SMOKE, "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert result.stderr.startswith("bido: the disk is full (RuntimeError;")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("more", "command"),
    [((), "same command continues"), (("--fresh",), "same command (without --fresh) continues")],
)
def test_an_interrupted_command_says_how_to_continue(monkeypatch, tmp_path, more, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bido_ext.lab.experiments.pipeline.load_images", interrupted)
    result = bido("train", *SMOKE, "--out", tmp_path / "x", *more)
    assert result.exit_code == 130
    assert result.stderr == f"bido: interrupted; the {command} where it stopped\n"


@pytest.mark.parametrize(
    ("defence", "text", "weights"),
    [
        ("bido-hsic", "0.1,1", {"lambda_x": 0.1, "lambda_y": 1.0}),
        ("bido-hsic", "lambda_y=2, lambda_x=0.1", {"lambda_x": 0.1, "lambda_y": 2.0}),
        ("mid", "0.2", {"beta": 0.2}),
        ("none", None, {}),
    ],
)
def test_weights_are_read_by_place_or_by_name(defence, text, weights):
    assert parse_weights(defence, text) == weights


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,lambda_y=2", "a,b", "beta=1", "-1,1"])
def test_wrong_weights_are_refused(text):
    with pytest.raises(ValueError, match=r"--weights|weight|lambda_x"):
        parse_weights("bido-hsic", text)


def test_a_weight_given_twice_is_refused():
    with pytest.raises(ValueError, match="each weight once, got 'lambda_x=0.1, lambda_x =9'"):
        parse_weights("bido-hsic", "lambda_x=0.1, lambda_x =9")


def test_without_the_extra_the_command_says_how_to_get_it():
    script = "import sys; sys.modules['typer'] = None; from bido_ext.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "bido-ext[lab]"' in done.stderr
    assert "Traceback" not in done.stderr
