# SPDX-License-Identifier: Apache-2.0
"""Each defence in a whole training: what reaches the model file, and what a rule changes on the way."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.defences import resolve_weights
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import load_model, save_model
from bido_ext.lab.models.skips import Scale


def train(out, *arguments, code=0):
    line = ["train", "--preset", "smoke", "--out", str(out), "--json", *map(str, arguments)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("ls", 2),
        ("midre", 2),
        ("rounding", 2),
        ("label-only", 2),
        ("bido-hsic+ls", 2),
        ("mid+midre", 2),
        ("at-at+label-only", 1),
        pytest.param("trap-mid", 1, marks=pytest.mark.slow),  # the next one has it too
        ("mid+trap-mid", 1),
        ("dp-sgd+ls+midre", 1),
    ],
)
def test_trains_and_is_written_with_its_weights(name, epochs, tmp_path):
    if "dp-sgd" in name:
        pytest.importorskip("opacus")
    train(tmp_path, "--defence", name, "--epochs", epochs)
    _, facts = load_model(tmp_path / "model.pt")
    assert facts["defence"] == name
    assert facts["weights"] == resolve_weights(name, {})


def test_the_loss_is_the_defences_own(tmp_path):
    """With alpha -0.5 from the first epoch on another model comes out; with alpha 0 the plain one."""
    states = {}
    for key, weights in {"plain": None, "zero": "0,0,0", "full": "-0.5,0,0"}.items():
        defence = [] if weights is None else ["--defence", "ls", f"--weights={weights}"]
        train(tmp_path / key, *defence)
        states[key] = load_model(tmp_path / key / "model.pt")[0].state_dict()["head.weight"]
    torch.testing.assert_close(states["plain"], states["zero"], rtol=1e-3, atol=1e-4)
    assert (states["plain"] - states["full"]).abs().max() > 1e-3


def test_a_schedule_over_the_epochs_does_not_go_on(tmp_path):
    train(tmp_path, "--defence", "ls")
    told = train(tmp_path, "--defence", "ls", "--epochs", 2, code=2)
    assert "the defence 'ls' depends on the number of epochs" in told


def test_frozen_layers_are_those_of_the_file(tmp_path):
    torch.manual_seed(1)
    elsewhere = build_model("mcnn", 9)
    save_model(tmp_path / "other.pt", elsewhere, "mcnn", 9, "none", {})
    told = train(tmp_path / "none", "--defence", "tl-dmi", code=2)
    assert "it needs pretrained weights" in told
    train(tmp_path / "tl", "--defence", "tl-dmi", "--pretrained", tmp_path / "other.pt")
    trained, _ = load_model(tmp_path / "tl" / "model.pt")
    state, start = trained.state_dict(), elsewhere.state_dict()
    same = {
        key for key in start if not key.startswith("head.") and torch.equal(state[key], start[key])
    }
    assert same == {key for key in start if key.startswith(("layer1.", "layer2."))}


def test_a_network_is_built_again_without_its_skips(tmp_path):
    data = write_small("folders", tmp_path / "faces", classes=3, images=12)
    small = ["--dataset", "folders", "--data", data, "--batch-size", 4, "--arch", "resnet-clsh"]
    small += ["--arch-options", "depth=10,image_size=32", "--defence", "rolss"]
    train(tmp_path / "cut", *small)
    model, facts = load_model(tmp_path / "cut" / "model.pt")
    assert facts["arch_options"] == {
        "image_size": 32,
        "depth": 10,
        "skip_stages": 1,
        "skip_factor": 0.0,
    }
    assert [m.factor for m in model.modules() if isinstance(m, Scale)] == [0.0]
    told = train(tmp_path / "mcnn", "--defence", "rolss", code=2)
    assert "this network has none" in told


def test_scaled_skips_train(tmp_path):
    data = write_small("folders", tmp_path / "faces", classes=3, images=12)
    small = ["--dataset", "folders", "--data", data, "--batch-size", 4, "--arch", "resnet-clsh"]
    small += ["--arch-options", "depth=10,image_size=32", "--defence", "rolss-ssf"]
    train(tmp_path / "soft", *small)
    model, facts = load_model(tmp_path / "soft" / "model.pt")
    assert facts["arch_options"]["skip_factor"] == 0.2
    assert [m.factor for m in model.modules() if isinstance(m, Scale)] == [0.2]


def test_a_stopped_training_is_the_beginning_of_the_whole_one(tmp_path):
    """Half of two epochs under a falling schedule: the first epoch, whatever comes after."""
    whole = ["--epochs", 2, "--schedule", "cosine"]
    train(tmp_path / "whole", *whole)
    train(tmp_path / "half", *whole, "--stop", 0.5)
    rows = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "half")]
    assert rows[1] == rows[0][:2]
    train(tmp_path / "quarter", *whole, "--stop", 0.25)
    first = load_model(tmp_path / "quarter" / "model.pt")[0].state_dict()["head.weight"]
    later = load_model(tmp_path / "half" / "model.pt")[0].state_dict()["head.weight"]
    assert not torch.equal(first, later)
    told = train(tmp_path / "half", *whole, "--stop", 2, code=2)
    assert "stop must be at most 1, got 2.0" in told
