# SPDX-License-Identifier: Apache-2.0
"""``bido suggest``: weights for a model file and a data set, picture and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from themed import follows_the_reader
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model


def suggest(*arguments: object):
    return CliRunner().invoke(app, ["suggest", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("suggest") / "model.pt"
    save_model(path, build_model("mcnn", 5), "mcnn", 5, "none", {})
    return path


def test_a_ladder_for_each_measure(saved: Path, tmp_path: Path) -> None:
    common = ("--dataset", "synthetic", "--batch-size", 16, "--batches", 2, "--out", tmp_path)
    result = suggest(saved, *common)
    assert result.exit_code == 0, result.stderr
    assert "start here" in result.stdout
    document = json.loads((tmp_path / "weights.json").read_text())
    assert (document["format"], document["version"]) == ("bido_ext.weights", 1)
    assert sorted(document["ladders"]) == ["cka", "coco", "hsic", "nhsic"]
    assert (document["samples"], document["batches"]) == (32, 2)
    assert document["model"]["taps"] == ["layer1", "layer2", "layer3"]
    assert str(tmp_path) not in json.dumps(document)
    with Image.open(tmp_path / "weights.png") as picture:
        assert min(picture.size) > 200
    assert follows_the_reader(tmp_path / "weights.svg")
    assert "Weights of BiDO for mcnn" in (tmp_path / "weights.svg").read_text()
    again = json.loads(suggest(saved, *common, "--json").stdout)
    assert again["ladders"] == document["ladders"]
    assert Path(again["picture_svg"]) == tmp_path / "weights.svg"
    one = suggest(saved, *common, "--measures", "hsic", "--taps", "layer2", "--json")
    assert list(json.loads(one.stdout)["ladders"]["hsic"]["terms_x"]) == ["layer2"]
    identity = suggest(saved, *common, "--sampler", "identity", "--measures", "hsic", "--json")
    assert json.loads(identity.stdout)["settings"]["sampler"] == "identity"


def test_help_names_both_pictures() -> None:
    told = " ".join(suggest("--help").stdout.split())
    assert "weights.png, weights.svg" in told
    assert "light or dark" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "nowhere"), "nowhere"),
        (("--measures", "dcor"), "measures must be one of"),
        (("--sampler", "sorted"), "sampler must be one of"),
        (("--batch-size", 100000), "larger than the training set"),
        (("--taps", "layer9"), "layer9"),
    ],
)
def test_bad_input(saved: Path, tmp_path: Path, arguments: tuple, words: str) -> None:
    result = suggest(saved, "--dataset", "synthetic", "--out", tmp_path, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    missing = suggest(tmp_path / "none.pt", "--dataset", "synthetic")
    assert missing.exit_code == 2
