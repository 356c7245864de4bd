# SPDX-License-Identifier: Apache-2.0
"""A wrong file of weights: the user's own option, the file, what it is, and what to give instead."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.cli.errors import plain_errors
from bido_ext.lab.attacks import Reconstructions
from bido_ext.lab.attacks.reconstructions import save_reconstructions
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model
from bido_ext.lab.models.wanted import WeightsFileError

SMOKE = ("--preset", "smoke")


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _state(folder: Path) -> bytes:
    torch.save({"a": torch.ones(400)}, folder / "state.pt")
    return (folder / "state.pt").read_bytes()


def _safetensors(folder: Path) -> bytes:
    return len(b'{"__metadata__":{}}').to_bytes(8, "little") + b'{"__metadata__":{}}'


# How a wrong file is made, and what a message has to call it.
KINDS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "cut": (lambda folder: _state(folder)[:900], "cut short at 900 bytes); copy or download it"),
    "text": (lambda folder: b"learning rate 0.1\nepochs 5\n", '"learning rate 0.1"'),
    "web page": (lambda folder: b"\n<!DOCTYPE html><title>404", "a web page, as a failed download"),
    "pickle": (lambda folder: pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "lfs": (lambda folder: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "safetensors": (_safetensors, "its name must end in .safetensors"),
    "picture": (lambda folder: b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture"),
    "empty": (lambda folder: b"", "an empty file"),
    "noise": (lambda folder: bytes(range(255, 100, -1)), "no file of torch.save"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a judge and reconstructions, all without training."""
    folder = tmp_path_factory.mktemp("good")
    made = {name: folder / f"{name}.pt" for name in ("model", "evaluator", "found")}
    save_model(made["model"], build_model("mcnn", 5), "mcnn", 5, "none", {})
    save_model(made["evaluator"], build_model("scnn", 10), "scnn", 10, "none", {})
    found = Reconstructions(
        torch.rand(1, 5, 1, 32, 32), torch.rand(1, 5, 3), list(range(5)), torch.rand(1, 5)
    )
    save_reconstructions(found, {}, made["found"])
    return made


# What is typed before the wrong file, and after it; the option; words of what is allowed.
PLACES: dict[str, tuple[Callable[[dict[str, Path]], tuple], tuple, str, str]] = {
    "attack MODEL": (
        lambda good: ("attack",),
        ("--prior", "p", "--out", "a", *SMOKE),
        "MODEL",
        "the model.pt of bido train",
    ),
    "attack --generator": (
        lambda good: ("attack", good["model"], "--attack", "ppa", "--generator"),
        ("--out", "a", *SMOKE),
        "--generator",
        "StyleGAN2-ADA",
    ),
    "evaluate FILE": (lambda good: ("evaluate",), SMOKE, "FILE", "reconstructions.pt of bido att"),
    "evaluate --evaluator": (
        lambda good: ("evaluate", good["found"], "--evaluator"), SMOKE, "--evaluator", "model.pt",
    ),
    "evaluate --second-judge": (
        lambda good: (
            "evaluate", good["found"], "--evaluator", good["evaluator"], "--second-judge",
        ),
        SMOKE, "--second-judge", "the model.pt of bido train",
    ),
    "evaluate --lpips": (
        lambda good: ("evaluate", good["found"], "--evaluator", good["evaluator"], "--lpips"),
        SMOKE, "--lpips", "torchvision's vgg16-397923af.pth",
    ),
    "evaluate --inception": (
        lambda good: ("evaluate", good["found"], "--evaluator", good["evaluator"], "--inception"),
        SMOKE, "--inception", "weights-inception-2015-12-05-6726825d.pth",
    ),
    "compare MODEL": (
        lambda good: ("compare",), ("--dataset", "synthetic"), "MODEL", "model.pt of bido train",
    ),
    "compare OTHER": (
        lambda good: ("compare", good["model"]), ("--dataset", "synthetic"), "OTHER", "model.pt",
    ),
    "compare --weights": (
        lambda good: ("compare", "mcnn", "--dataset", "synthetic", "--weights"),
        (), "--weights", "a state dict or checkpoint that torch.save wrote",
    ),
    "compare --other-weights": (
        lambda good: ("compare", good["model"], "mcnn", "--dataset", "synthetic", "--other-weights"),
        (), "--other-weights", "a state dict or checkpoint that torch.save wrote",
    ),
    "suggest MODEL": (
        lambda good: ("suggest",), ("--dataset", "synthetic"), "MODEL", "model.pt of bido train",
    ),
    "export MODEL": (lambda good: ("export",), ("--out", "x.tar"), "MODEL", "model.pt of bido tr"),
    "train --pretrained": (
        lambda good: ("train", "--out", "t", *SMOKE, "--pretrained"),
        (), "--pretrained", "a state dict or checkpoint that torch.save wrote",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_takes_a_file_of_weights(place, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, option, allowed = PLACES[place]
    # All kinds at one place; elsewhere those that readers of their own could miss.
    kinds = KINDS if place in ("compare --weights", "attack MODEL") else ("cut", "text", "pickle")
    for kind in kinds:
        make, found = KINDS[kind]
        file = tmp_path / "wrong.pt"
        file.write_bytes(make(tmp_path))
        done = bido(*before(good), file, *after)
        told = done.stderr
        assert done.exit_code == 2, told
        assert told.startswith(f"bido: {option}: {file} is not a readable "), (kind, told)
        assert found in told, (kind, told)
        assert "give " in told, (kind, told)
        assert allowed in told, (kind, told)
        assert told.count("\n") == 1
        for inner in ("PytorchStreamReader", " path:", " pretrained:", "weights_only", "Unpickl"):
            assert inner not in told, (kind, told)


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_and_a_file_that_is_not_there(place, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, option, allowed = PLACES[place]
    (tmp_path / "folder.pt").mkdir()
    for name, found in (("none.pt", "there is no "), ("folder.pt", "is no file")):
        done = bido(*before(good), tmp_path / name, *after)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"bido: {option}: "), done.stderr
        assert str(tmp_path / name) in done.stderr
        assert found in done.stderr
        assert allowed in done.stderr


def test_the_file_in_a_folder_that_an_option_names(good, tmp_path):
    command = ("attack", good["model"], "--prior", tmp_path / "gan", *SMOKE, "--attack", "ked")
    assert bido(*command, "--out", tmp_path / "a").exit_code == 0
    file = tmp_path / "gan" / "gan.pt"
    file.write_bytes(file.read_bytes()[:900])
    told = bido(*command, "--out", tmp_path / "b").stderr
    assert told.startswith(f"bido: --prior: {file} is not a readable GAN (it is a zip"), told
    assert "cut short at 900 bytes" in told, told
    assert "another --prior folder" in told, told


def test_weights_of_another_network(good, tmp_path):
    file = tmp_path / "scnn.pt"
    torch.save(build_model("scnn", 5).state_dict(), file)
    told = bido("compare", "mcnn", "--dataset", "synthetic", "--weights", file).stderr
    assert told.startswith(f"bido: --weights: the weights in {file} do not fit the model (")
    assert "number of classes" in told, "compare has no --reinit"
    assert "reinit" not in told, "compare has no --reinit"
    told = bido("train", "--out", tmp_path / "t", *SMOKE, "--pretrained", file).stderr
    assert told.startswith(f"bido: --pretrained: the weights in {file} do not fit")
    assert "reinit" in told
    judged = ("evaluate", good["found"], *SMOKE, "--evaluator", good["model"])
    told = bido(*judged).stderr
    assert told.startswith(f"bido: --evaluator: {good['model']} holds a model with num_classes=5,")


@pytest.mark.parametrize(
    ("file", "told"),
    [("elsewhere.pt", ""), ("b/in/x.pt", "folders: "), ("x.pt", "out: ")],
)
def test_a_file_that_no_option_names_and_files_in_folders(file, told, tmp_path, capsys):
    path = Path(file) if not told else tmp_path / file

    @plain_errors
    def command(out: Path, folders: list[Path], kernel: str) -> None:
        raise WeightsFileError("path", path, f"{path} is damaged")

    with pytest.raises(typer.Exit):
        command(out=tmp_path, folders=[tmp_path / "a", tmp_path / "b"], kernel="b")
    assert capsys.readouterr().err == f"bido: {told}{path} is damaged\n"
