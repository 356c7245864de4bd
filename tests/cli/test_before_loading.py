# SPDX-License-Identifier: Apache-2.0
"""What commands refuse before they load anything, and settings from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bido_ext._version import __version__
from bido_ext.cli.app import app
from bido_ext.lab.attacks import Reconstructions
from bido_ext.lab.attacks.reconstructions import save_reconstructions
from bido_ext.lab.data.atomic import NotWrittenError
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model

SMOKE = ("--preset", "smoke")


pytestmark = pytest.mark.usefixtures("one_thread")


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _model(path: Path, arch: str, classes: int, **options: object) -> Path:
    save_model(
        path, build_model(arch, classes, options=options), arch, classes, "none", {}, options
    )
    return path


def _found(path: Path, labels: list[int], channels: int = 1) -> Path:
    images = torch.rand(2, len(labels), channels, 32, 32)
    found = Reconstructions(
        images, torch.rand(2, len(labels), 3), labels, torch.rand(2, len(labels))
    )
    save_reconstructions(found, {}, path)
    return path


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("images were loaded")

    monkeypatch.setattr("bido_ext.lab.experiments.pipeline.load_images", loaded)


def test_version():
    result = bido("--version")
    assert (result.exit_code, result.stdout) == (0, f"bido {__version__}\n")


def test_models_of_other_classes_or_colours(nothing_is_loaded, tmp_path):
    faces = _model(tmp_path / "f.pt", "vgg16", 5, width=0.0625, image_size=32)
    many = _model(tmp_path / "m.pt", "mcnn", 7)
    prior = ("--prior", tmp_path / "p", "--out", tmp_path / "x")
    for command in (("evaluate", "FILE"), ("attack", "FILE", *prior)):
        for file, message in (
            (many, "private classes of 'mnist'"),
            (faces, "images of 'mnist' have 1 channels"),
        ):
            result = bido(*(file if part == "FILE" else part for part in command))
            assert (result.exit_code, result.stdout) == (2, "")
            assert message in result.stderr
            assert "--dataset" in result.stderr


def test_reconstructions_are_checked_first(nothing_is_loaded, tmp_path):
    judge = _model(tmp_path / "judge.pt", "scnn", 10)
    target = _model(tmp_path / "target.pt", "mcnn", 5)
    for file, evaluator, message in (
        (_found(tmp_path / "a.pt", [0, 1]), target, "num_classes=5, expected 10"),
        (_found(tmp_path / "b.pt", [0, 7]), judge, "'mnist' has 5 private classes, "),
        (_found(tmp_path / "c.pt", [0, 1], 3), judge, "images of 'mnist' have 1 channels"),
    ):
        result = bido("evaluate", file, "--evaluator", evaluator)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "--lr", "inf"), "--lr"),
        (("train", "--weight-decay", "nan"), "--weight-decay"),
        (("attack", "m.pt", "--prior", "p", "--id-weight", "-inf"), "--id-weight"),
        (("attack", "m.pt", "--prior", "p", "--truncation", "nan"), "--truncation"),
    ],
)
def test_options_must_be_finite(arguments, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bido(*arguments, "--out", "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option} must be a finite number, got " in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_disk_refuses_is_one_sentence(monkeypatch, tmp_path):
    def full(*_, **__):
        raise NotWrittenError("a.pt could not be written: No space left on device")

    monkeypatch.setattr("bido_ext.lab.experiments.pipeline.load_images", full)
    result = bido("train", *SMOKE, "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert result.stderr == "bido: a.pt could not be written: No space left on device\n"


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    assert bido("train", *SMOKE, "--out", out).exit_code == 0
    return out / "model.pt"


def test_attack_with_settings_of_a_file(digits, tmp_path):
    file = tmp_path / "gmi.toml"
    file.write_text("[attack]\nrestarts = 2\nsteps = 4\n[prior]\nsteps = 3\n")
    command = ("attack", digits, *SMOKE, "--prior", tmp_path / "g", "--settings", file, "--json")
    done = bido(*command, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["restarts"] == 2
    stage = json.loads((tmp_path / "a" / "stage.json").read_text())["config"]["settings"]
    assert (stage["steps"], stage["restarts"]) == (4, 2)
    prior = json.loads((tmp_path / "g" / "stage.json").read_text())["config"]["training"]
    assert prior["steps"] == 3
    more = bido(*command, "--restarts", 1, "--out", tmp_path / "b")
    assert json.loads(more.stdout)["restarts"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[attack]\nstep = 2\n", "attack: unknown key 'step'; did you mean 'steps'?"),
        ("[attack]\nsteps = 'many'\n", "steps must be of type int, got 'many'"),
        ("[attack]\nlr = inf\n", "lr must be a finite number, got inf"),
        ("[attack]\nseed = 1\n", "attack has a seed; give it as --seed"),
        ("title = 'a'\n[attack]\n", "must hold the tables [attack] and [prior] alone, it holds 't"),
        ("attack = 3\n", "attack must be a table, got 3"),
        ("[attack\n", "is no valid TOML in UTF-8"),
        (None, "--settings: there is no file"),
    ],
)
def test_bad_files_of_settings(digits, tmp_path, text, message):
    file = tmp_path / "s.toml"
    if text is not None:
        file.write_text(text)
    command = ("attack", digits, *SMOKE, "--prior", tmp_path / "g", "--settings", file)
    result = bido(*command, "--out", tmp_path / "a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "s.toml" in result.stderr


def test_public_images_of_numpy_are_checked(digits, tmp_path):
    np.savez(tmp_path / "p.npz", images=np.zeros((4, 16, 16), np.uint8))
    command = ("attack", digits, *SMOKE, "--prior", tmp_path / "g", "--out", tmp_path / "a")
    result = bido(*command, "--public-images", tmp_path / "p.npz")
    assert "public images must have the shape (1, 32, 32)" in result.stderr
