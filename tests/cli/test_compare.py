# SPDX-License-Identifier: Apache-2.0
"""``bido compare``: models by file and by name, images by data set and folder, picture and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from themed import follows_the_reader
from typer.testing import CliRunner

import bido_ext as bx
from bido_ext.cli.app import app
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model

SMALL = ("--images", "24", "--batch-size", "8")


def bido(*arguments: object):
    return CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("compare") / "model.pt"
    save_model(path, build_model("mcnn", 5), "mcnn", 5, "none", {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for i in range(9):
        pixels = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


def test_two_models_on_a_data_set(saved: Path, tmp_path: Path) -> None:
    arguments = (saved, "scnn", "--classes", "5", "--dataset", "synthetic", *SMALL)
    result = bido(*arguments, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "most similar in scnn (untrained, seed 1)" in result.stdout
    document = json.loads((tmp_path / "similarity.json").read_text())
    assert (document["format"], document["version"]) == ("bido_ext.similarity", 1)
    assert (document["samples"], document["batches"]) == (24, 3)
    assert document["layers"][-1] == document["other_layers"][-1] == "head"
    assert len(document["matrix"]) == len(document["layers"])
    assert len(document["matrix"][0]) == len(document["other_layers"])
    assert document["models"][0]["label"] == "mcnn (none)"
    assert document["models"][0]["sha256"] != document["models"][1]["sha256"]
    assert str(tmp_path) not in json.dumps(document)
    with Image.open(tmp_path / "similarity.png") as picture:
        assert min(picture.size) > 200
    assert follows_the_reader(tmp_path / "similarity.svg")
    drawn = (tmp_path / "similarity.svg").read_text()
    assert "CKA of the layers of mcnn (none) and scnn (untrained" in drawn
    told = json.loads(bido(*arguments, "--out", tmp_path, "--json").stdout)
    assert told["matrix"] == document["matrix"]
    assert Path(told["picture"]) == tmp_path / "similarity.png"
    assert Path(told["picture_svg"]) == tmp_path / "similarity.svg"


def test_one_model_with_itself_equals_the_class(saved: Path, tmp_path: Path) -> None:
    layers = ("layer1.0", "layer3.0", "head")
    result = bido(
        saved, "--dataset", "synthetic", "--layers", ",".join(layers), "--images", "16",
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.stderr == ""
    matrix = torch.tensor(json.loads(result.stdout)["matrix"], dtype=torch.float64)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())
    from bido_ext.lab.data import DataConfig, ImageSet
    from bido_ext.lab.experiments.pipeline import load_images
    from bido_ext.lab.models.checkpoint import load_model

    images = ImageSet.of(load_images(DataConfig("synthetic", image_size=32)).task.judge_test)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:16]
    similarity = bx.LayerSimilarity(load_model(saved)[0], layers=layers)
    similarity.update(images.batch(rows))
    torch.testing.assert_close(similarity.compute().matrix, matrix)


@pytest.mark.filterwarnings("ignore:FeatureTaps")
def test_library_models_with_weights_on_a_folder(photos: Path, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=7).state_dict(), tmp_path / "resnet18.pth")
    result = bido(
        "torchvision/resnet18", "torchvision/resnet18", "--weights", tmp_path / "resnet18.pth",
        "--other-weights", tmp_path / "resnet18.pth", "--classes", "7", "--data", photos,
        "--arch-options", "image_size=32,pixel_range=imagenet", "--other-arch-options",
        "image_size=48,pixel_range=imagenet", "--layers", "network.layer1,head", "--out", tmp_path,
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["other_layers"] == ["network.layer1", "head"], "as --layers"
    assert document["models"][0]["weights"] == "resnet18.pth"
    assert document["models"][0]["sha256"] == document["models"][1]["sha256"]
    assert 0 < document["matrix"][0][0] <= 1
    assert document["samples"] == 9


def test_help_names_both_pictures() -> None:
    told = " ".join(bido("--help").stdout.split())
    assert "similarity.png, similarity.svg" in told
    assert "light or dark" in told


def test_grey_images_for_a_model_of_colour(tmp_path: Path) -> None:
    result = bido(
        "vgg16", "--classes", "5", "--arch-options", "image_size=32,width=0.1", "--dataset",
        "synthetic", *SMALL, "--kernel", "gaussian", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["settings"]["kernel"] == "gaussian"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("mcnn",), "--dataset or --data must say"),
        (("mcnn", "--dataset", "synthetic", "--kernel", "cubic"), "kernel must be one of"),
        (("mcnn", "--dataset", "synthetic", "--images", "3"), "--images must be at least 4"),
        (("mcnn", "--dataset", "synthetic", "--layers", "layer9"), "no layer 'layer9'"),
        (("mcnn", "--dataset", "synthetic", "--other-layers", "head"), "needs a second model"),
        (("mcnm", "--dataset", "synthetic"), "arch must be one of"),
        (("no.pt", "--dataset", "synthetic"), "there is no checkpoint"),
        (("mcnn", "--data", "nowhere"), "must be a folder"),
        (("mcnn", "--dataset", "synthetic", "--estimator", "debiased"), "estimator must be"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    result = bido(*arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_takes_no_weights(saved: Path, tmp_path: Path) -> None:
    result = bido(saved, "--weights", saved, "--dataset", "synthetic", "--out", tmp_path)
    assert result.exit_code == 2
    assert "brings its weights" in result.stderr
