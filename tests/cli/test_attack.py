# SPDX-License-Identifier: Apache-2.0
"""``bido attack``: every attack, on digits and on faces, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import ATTACKS, StyleGan2
from bido_ext.lab.data.small_data import write_small

SMOKE = ("--preset", "smoke")


pytestmark = pytest.mark.usefixtures("one_thread")


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A classifier of digits."""
    out = tmp_path_factory.mktemp("digits")
    assert bido("train", *SMOKE, "--out", out).exit_code == 0
    return out / "model.pt"


def test_ked_trains_a_gan_for_each_target(digits, tmp_path):
    other = bido("train", *SMOKE, "--seed", "1", "--out", tmp_path / "other")
    assert other.exit_code == 0
    command = ("attack", "--attack", "ked", *SMOKE, "--prior", tmp_path / "gan", "--json")
    first = bido(*command, digits, "--classes", "3,0-1", "--out", tmp_path / "a")
    assert first.exit_code == 0, first.stderr
    document = json.loads(first.stdout)
    assert (document["classes"], document["restarts"]) == ([3, 0, 1], 3)
    stranger = (*command, tmp_path / "other" / "model.pt")
    refused = bido(*stranger, "--out", tmp_path / "b")
    assert refused.exit_code == 2
    assert "was trained for the target" in refused.stderr
    assert "--force-foreign-gan" in refused.stderr
    forced = bido(*stranger, "--out", tmp_path / "b", "--force-foreign-gan", "--set", "samples=2")
    assert json.loads(forced.stdout)["restarts"] == 2


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> dict[str, Path]:
    """A classifier of tiny faces on disk, and public images as an array."""
    out = tmp_path_factory.mktemp("faces")
    write_small("lfw", out / "lfw", classes=3, images=20)
    command = ("train", *SMOKE, "--dataset", "lfw", "--data", out / "lfw", "--batch-size", 8)
    narrow = ("--arch-options", "width=0.1", "--out", out / "t")
    assert bido(*command, *narrow).exit_code == 0
    assert bido(*command, *narrow[:2], "--seed", 1, "--out", out / "e").exit_code == 0
    np.savez(out / "faces.npz", images=np.random.randint(0, 256, (12, 64, 64, 3), np.uint8))
    np.savez(out / "grey.npz", images=np.zeros((12, 64, 64), np.uint8))
    return {"model": out / "t" / "model.pt", "data": out / "lfw", "out": out}


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_every_attack_on_faces(faces, attack, tmp_path):
    command = ("attack", faces["model"], *SMOKE, "--attack", attack, "--json", "--classes", "2,0")
    prior = ATTACKS[attack].prior
    own = attack if prior.of_target else prior.config.__name__
    command += ("--prior", faces["out"] / own, "--out", tmp_path)
    command += ("--prior-set", "augment=none", "--prior-set", "width=0.05", "--prior-steps", 1)
    done = bido(*command, "--dataset", "lfw", "--data", faces["data"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == [2, 0]
    found = torch.load(tmp_path / "reconstructions.pt", weights_only=True)
    assert found["images"].shape[1:] == (2, 3, 64, 64)
    again = bido(*command, "--dataset", "lfw", "--data", faces["data"])
    assert json.loads(again.stdout) == json.loads(done.stdout)


def test_judging_faces(faces, tmp_path):
    sets = ("--dataset", "lfw", "--data", faces["data"])
    command = ("attack", faces["model"], *SMOKE, "--prior", faces["out"] / "judged", *sets)
    made = bido(*command, "--prior-steps", 1, "--prior-set", "width=0.05", "--out", tmp_path)
    assert made.exit_code == 0, made.stderr
    command = ("evaluate", tmp_path / "reconstructions.pt", *SMOKE, *sets)
    itself = bido(*command, "--evaluator", faces["model"])
    assert itself.exit_code == 2
    assert "is the attacked model itself" in itself.stderr
    judged = bido(*command, "--evaluator", faces["out"] / "e" / "model.pt", "--required", "1.1")
    assert judged.exit_code == 0, judged.stderr
    assert "NOT MET" in judged.stdout
    assert "bootstrap over identities" in judged.stdout
    assert "class | top-1" in judged.stdout
    natural = bido("evaluate", faces["model"], *SMOKE, *sets, "--json")
    assert json.loads(natural.stdout)["test_set"] == "private classes"
    wrong = bido("evaluate", faces["model"], *SMOKE)
    assert "model must have the 5 private classes of 'synthetic' or the 10" in wrong.stderr


def test_attack_with_public_images_of_ones_own(faces, tmp_path):
    command = ("attack", faces["model"], *SMOKE, "--prior", tmp_path / "g", "--out", tmp_path / "a")
    command += ("--prior-set", "augment=none", "--prior-steps", 1, "--public-images")
    refused = bido(*command, faces["out"] / "grey.npz")
    assert "public images must have the shape (3, 64, 64)" in refused.stderr
    assert bido(*command, faces["out"] / "faces.npz").exit_code == 0


def test_attack_with_weights_of_stylegan2(faces, tmp_path):
    channels = {4: 4, 8: 4, 16: 4}
    made = StyleGan2(16, channels, z_dim=6, w_dim=6, mapping_layers=1)
    torch.save(made.state_dict(), tmp_path / "g.pt")
    command = (
        "attack",
        faces["model"],
        *SMOKE,
        "--attack",
        "ppa",
        "--generator",
        tmp_path / "g.pt",
    )
    done = bido(*command, "--set", "centre=12", "--out", tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    found = torch.load(tmp_path / "a" / "reconstructions.pt", weights_only=True)
    assert found["images"].shape == (3, 3, 3, 64, 64)
    assert found["latents"].shape == (3, 3, 6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--attack", "mind-reading"), "attack must be one of gmi, ked, vmi, ppa"),
        (("--force-foreign-gan",), "--force-foreign-gan is for --attack ked"),
        (("--set", "speed=1"), "--set must be name=value with a name of steps, "),
        (("--set", "steps=many"), "--set steps must be a int like 6, got 'many'"),
        (("--attack", "ked", "--prior-set", "lr"), "--prior-set must be name=value"),
        (("--classes", "3-1"), "--classes must be labels and ranges"),
        (("--classes", "9"), "--classes: the model has labels 0 to 4, got 9"),
        (
            ("--attack", "gmi", "--generator", "g.pt"),
            "give --prior FOLDER (a generator is trained there if there is none) or",
        ),
        (("--public-images", "nowhere.npz"), "public must be an .npz file with an array 'images'"),
    ],
)
def test_bad_attack_options(digits, tmp_path, more, message):
    command = ("attack", digits, *SMOKE, "--prior", tmp_path / "g")
    result = bido(*command, "--out", tmp_path / "a", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
