# SPDX-License-Identifier: Apache-2.0
"""Training on image files: identity batches, pixel ranges, pretrained weights, through the command."""

import json

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.data import DataConfig, load_task
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.data.training_augment import training_augmentation
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.training import train as training
from bido_ext.lab.training.train import TrainConfig, train_classifier

TINY = {"width": 0.0625, "image_size": 32}
SHORT = ("--epochs", "1", "--batch-size", "12", "--arch-options", "width=0.0625,image_size=32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_small("celeba", tmp_path_factory.mktemp("celeba"), classes=3, images=10)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BIDO_EXT_CACHE", str(tmp_path_factory.getbasetemp() / "bido-cache"))


def bido(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_trains_on_faces(root, tmp_path):
    result = bido(
        "train", "--dataset", "celeba", "--data", root, *SHORT, "--defence", "bido-hsic",
        "--sampler", "identity", "--augment", "flip", "--out", tmp_path / "a", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert 0 <= json.loads(result.stdout)["natural_accuracy"] <= 1
    model, facts = load_model(tmp_path / "a" / "model.pt", "vgg16", 3)
    assert facts["arch_options"] == TINY
    assert model.input_shape == (3, 32, 32)
    pretrained = bido(
        "train", "--dataset", "celeba", "--data", root, *SHORT, "--defence", "mid",
        "--pretrained", tmp_path / "a" / "model.pt", "--out", tmp_path / "b",
    )  # fmt: skip
    assert pretrained.exit_code == 0, pretrained.stderr
    resumed = bido(
        "train", "--dataset", "celeba", "--data", root, *SHORT, "--milestones", "1",
        "--pretrained", tmp_path / "a" / "model.pt", "--out", tmp_path / "c", "--evaluator",
        "--arch", "vgg16",
    )  # fmt: skip
    assert resumed.exit_code == 0, resumed.stderr


def test_cifar10_is_trained_at_its_own_size(tmp_path):
    root = write_small("cifar10", tmp_path / "cifar", images=10)
    result = bido(
        "train", "--dataset", "cifar10", "--data", root, "--epochs", "1", "--batch-size", "16",
        "--arch-options", "width=0.0625", "--augment", "crop-flip", "--out", tmp_path / "a",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert load_model(tmp_path / "a" / "model.pt")[0].input_shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "lfw"), "--data must name the folder of the data set 'lfw'"),
        (("--dataset", "faces"), "data set must be one of"),
        (("--arch-options", "width"), "--arch-options must be name=value"),
        (("--arch-options", "depth=3"), "arch 'mcnn' has no option 'depth'"),
        (("--milestones", "a"), "--milestones must be numbers such as 20,35"),
        (("--arch", "timm/nothing_of_this_name"), "timm"),
    ],
)
def test_bad_options(arguments, message, tmp_path):
    result = bido("train", *arguments, "--preset", "smoke", "--out", tmp_path / "x")
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (tmp_path / "x").exists()


def test_it_learns_who_is_who(tmp_path):
    root = write_small("folders", tmp_path / "people", classes=4, images=24)
    task = load_task(DataConfig("folders", root, image_size=32))
    config = TrainConfig(
        arch="vgg16", arch_options={**TINY, "pixel_range": "signed"}, epochs=6, batch_size=16,
        lr=5e-3, sampler="identity", defence="bido-hsic", augment="flip",
    )  # fmt: skip
    result = train_classifier(config, task, tmp_path / "run", progress=False)
    assert result.test_accuracy > 0.7, "chance is 0.25"


def test_identity_batches_reach_the_loss(root, tmp_path, monkeypatch):
    batches = []
    cross_entropy = torch.nn.functional.cross_entropy

    def noting(logits, labels):
        batches.append(torch.bincount(labels, minlength=3).tolist())
        return cross_entropy(logits, labels)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noting)
    task = load_task(DataConfig("celeba", root, image_size=32))
    config = TrainConfig(
        arch="vgg16", arch_options=TINY, epochs=1, batch_size=12, sampler="identity"
    )
    train_classifier(config, task, tmp_path, progress=False)
    assert batches == [[4, 4, 4], [4, 4, 4]]


def test_bido_sees_what_the_network_sees(root, tmp_path, monkeypatch):
    seen = []

    def noting(self, x, features, labels):
        seen.append((float(x.min()), float(x.max())))
        return sum(f.sum() for f in features.values()) * 0

    monkeypatch.setattr("bido_ext.BiDOLoss.forward", noting)
    monkeypatch.setattr("bido_ext.BiDOLoss.terms", {}, raising=False)
    task = load_task(DataConfig("celeba", root, image_size=32))
    options = {**TINY, "pixel_range": "signed"}
    config = TrainConfig(
        arch="vgg16", arch_options=options, epochs=1, batch_size=12, defence="bido-hsic"
    )
    train_classifier(config, task, tmp_path, progress=False)
    assert min(low for low, _ in seen) < -0.5


def test_milestones_count_epochs(root, tmp_path, monkeypatch):
    rates = []
    epoch = training._epoch

    def noting(config, number, model, defence, penalty, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"])
        return epoch(config, number, model, defence, penalty, optimizer, *rest)

    monkeypatch.setattr(training, "_epoch", noting)
    task = load_task(DataConfig("celeba", root, image_size=32))
    config = TrainConfig(
        arch="vgg16", arch_options=TINY, epochs=3, batch_size=6, lr=1.0, optimizer="sgd",
        schedule="multistep", milestones=[1, 2], gamma=0.1,
    )  # fmt: skip
    monkeypatch.setattr(training.math, "isfinite", lambda value: True)
    train_classifier(config, task, tmp_path, progress=False)
    assert rates == pytest.approx([1.0, 0.1, 0.01])


def test_pretrained_weights_are_where_training_starts(root, tmp_path, monkeypatch):
    file = build_model("vgg16", 3, options=TINY)
    torch.save(file.state_dict(), tmp_path / "start.pt")
    found = []
    monkeypatch.setattr(
        training, "_epoch",
        lambda config, number, model, *rest: found.append(model.backbone[0].weight.clone())
        or {"loss": 0.0, "ce": 0.0},
    )  # fmt: skip
    task = load_task(DataConfig("celeba", root, image_size=32))
    config = TrainConfig(
        arch="vgg16",
        arch_options=TINY,
        epochs=1,
        batch_size=6,
        pretrained=str(tmp_path / "start.pt"),
    )
    train_classifier(config, task, tmp_path / "run", progress=False)
    assert torch.equal(found[0], file.backbone[0].weight)
    torch.save(build_model("vgg16", 3, options=TINY).state_dict(), tmp_path / "start.pt")
    with pytest.raises(ValueError, match="was made with pretrained="):
        train_classifier(config, task, tmp_path / "run", progress=False)


@pytest.mark.parametrize("name", ["flip", "crop-flip", "photo"])
def test_augmented_images_are_images_of_their_own(name):
    x = torch.rand(6, 3, 16, 16)
    augment = training_augmentation(name)
    torch.manual_seed(0)
    y = augment(x, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    again = augment(x, torch.Generator().manual_seed(0))
    assert torch.equal(y, again)
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1
    if name == "flip":
        flipped = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(y, x, strict=True)]
        same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(y, x, strict=True)]
        assert any(flipped)
        assert any(same)
        assert all(a or b for a, b in zip(flipped, same, strict=True))
