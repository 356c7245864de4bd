# SPDX-License-Identifier: Apache-2.0
"""Files of the BiDO authors: read and written under their names, bit for bit the same network.

The classes here carry the names of theirs (Defend_MI, BiDO/model.py), in words of our own.
"""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.models import build_model, load_pretrained
from bido_ext.lab.models.authors import LAYOUTS, layout_of, write_authors
from bido_ext.lab.models.checkpoint import load_model, save_model
from bido_ext.lab.models.ir import IRClassifier


def block(inputs, outputs, kernel, pad, pool):
    found = [
        nn.Conv2d(inputs, outputs, kernel, padding=pad),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    ]
    return [*found, nn.MaxPool2d(2)] if pool else found


class Theirs(nn.Module):
    def forward(self, x):
        return self.fc_layer(self.embed(x))


class Mcnn(Theirs):
    def __init__(self, classes):
        super().__init__()
        self.layer1 = nn.Sequential(*block(1, 64, 7, 1, True))
        self.layer2 = nn.Sequential(*block(64, 128, 5, 0, True))
        self.layer3 = nn.Sequential(*block(128, 256, 5, 0, False))
        self.fc_layer = nn.Linear(256, classes)

    def embed(self, x):
        return self.layer3(self.layer2(self.layer1(x))).flatten(1)


class McnnVib(Mcnn):
    def __init__(self, classes):
        super().__init__(classes)
        self.st_layer = nn.Linear(256, 256)
        self.fc_layer = nn.Linear(128, classes)

    def forward(self, x):
        return self.fc_layer(self.st_layer(self.embed(x))[:, :128])  # the mean


class LeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.fc1, self.fc2 = nn.Linear(3136, 1024), nn.Linear(1024, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Scnn(Theirs):
    def __init__(self, classes):
        super().__init__()
        self.feature = nn.Sequential(
            *block(1, 32, 7, 1, True), *block(32, 64, 5, 0, True), *block(64, 128, 5, 0, False),
            *block(128, 256, 3, 1, False), *block(256, 512, 3, 1, False),
        )  # fmt: skip
        self.fc_layer = nn.Linear(512, classes)

    def embed(self, x):
        return self.feature(x).flatten(1)


def vgg_blocks():
    blocks, inputs = [], 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        layers = []
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        blocks.append([*layers, nn.MaxPool2d(2)])
    return blocks


class VggBlocks(Theirs):
    def __init__(self, classes):
        super().__init__()
        for number, layers in enumerate(vgg_blocks(), 1):
            setattr(self, f"layer{number}", nn.Sequential(*layers))
        self.bn, self.fc_layer = nn.BatchNorm1d(2048), nn.Linear(2048, classes)

    def embed(self, x):
        for number in range(1, 6):
            x = getattr(self, f"layer{number}")(x)
        return self.bn(x.flatten(1))


class VggPlain(Theirs):
    def __init__(self, classes, side=2):
        super().__init__()
        self.feature = nn.Sequential(*(layer for layers in vgg_blocks() for layer in layers))
        self.bn, self.fc_layer = nn.BatchNorm1d(512 * side**2), nn.Linear(512 * side**2, classes)

    def embed(self, x):
        return self.bn(self.feature(x).flatten(1))


class VggVib(VggPlain):
    def __init__(self, classes):
        super().__init__(classes)
        del self.bn
        self.st_layer, self.fc_layer = nn.Linear(2048, 2048), nn.Linear(1024, classes)

    def forward(self, x):
        return self.fc_layer(self.st_layer(self.feature(x).flatten(1))[:, :1024])


class Face64(Theirs):
    def __init__(self, classes, depth=50):
        super().__init__()
        same = IRClassifier(2, image_size=64, depth=depth)
        self.feature = nn.Sequential()
        self.feature.input_layer, self.feature.body = same.input_layer, same.body
        self.output_layer, self.fc_layer = same.output_layer, nn.Linear(512, classes)

    def embed(self, x):
        return self.output_layer(self.feature(x))


class Face112(Theirs):
    def __init__(self, classes):
        super().__init__()
        same = IRClassifier(2, image_size=112)
        self.feature = nn.Sequential()
        for name in ("input_layer", "body", "output_layer"):
            setattr(self.feature, name, getattr(same, name))
        self.fc_layer = nn.Linear(512, classes)

    def embed(self, x):
        return self.feature(x)


CASES = {
    "MCNN": (Mcnn, "mcnn", "none", (1, 32)),
    "MCNN_vib": (McnnVib, "mcnn", "mid", (1, 32)),
    "LeNet3": (LeNet, "lenet3", "none", (1, 28)),
    "SCNN": (Scnn, "scnn", "none", (1, 32)),
    "VGG16 (hsic_training)": (VggBlocks, "vgg16", "none", (3, 64)),
    "VGG16": (VggPlain, "vgg16", "none", (3, 64)),
    "VGG16_vib": (VggVib, "vgg16", "mid", (3, 64)),
    "FaceNet64": (Face64, "facenet64", "none", (3, 64)),
    "FaceNet": (Face112, "facenet112", "none", (3, 112)),
}


def images(kind):
    channels, side = kind[3]
    return torch.rand(2, channels, side, side)


@torch.no_grad()
def shaken(model):
    """Weights and statistics that are those of no fresh network."""
    torch.manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.mul_(0.95 + 0.1 * torch.rand_like(value)).add_(1e-3 * (value.dim() == 1))
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_theirs_is_read_bit_for_bit(name, tmp_path):
    kind = CASES[name]
    theirs = shaken(kind[0](7))
    path = tmp_path / "model.tar"
    torch.save({"state_dict": nn.DataParallel(theirs).state_dict()}, path)
    ours, facts = load_model(path)
    assert (facts["arch"], facts["num_classes"]) == (kind[1], 7)
    assert facts["defence"] == ("mid" if kind[2] == "mid" else "unknown")
    x = images(kind)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", CASES)
def test_ours_is_written_bit_for_bit(name, tmp_path):
    kind = CASES[name]
    ours = shaken(build_model(kind[1], 7, kind[2]))
    path = tmp_path / "model.tar"
    assert write_authors(ours, kind[1], {}, path, name) == name
    theirs = nn.DataParallel(kind[0](7).eval())
    theirs.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)
    x = images(kind)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert ours(x).isfinite().all()
    again, _ = load_model(path)
    state = ours.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_the_sizes_that_a_file_does_not_say(tmp_path):
    small = VggPlain(5, side=1)
    torch.save(small.state_dict(), tmp_path / "bare.tar")  # without a wrapper
    ours, facts = load_model(tmp_path / "bare.tar")
    assert facts["arch_options"] == {"image_size": 32}
    write_authors(ours, "vgg16", facts["arch_options"], tmp_path / "back.tar", "VGG16")
    state = torch.load(tmp_path / "back.tar", weights_only=True)["state_dict"]
    small.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    with torch.device("meta"):
        assert layout_of(Face64(2, depth=152).state_dict()) is LAYOUTS["IR152"]
        assert layout_of(Face64(2).state_dict()) is LAYOUTS["FaceNet64"]


@pytest.mark.parametrize("name", ["MCNN", "LeNet3", "SCNN"])
def test_a_missing_or_surplus_key_is_named(name, tmp_path):
    state = CASES[name][0](5).state_dict()
    for gone in state:
        rest = {key: value for key, value in state.items() if key != gone}
        torch.save({"state_dict": rest}, tmp_path / "m.tar")
        with pytest.raises(ValueError, match=rf"(missing: |lacks ){gone}"):
            load_model(tmp_path / "m.tar")
    torch.save({**state, "aux.weight": torch.zeros(1)}, tmp_path / "m.tar")
    with pytest.raises(ValueError, match="no place for: aux.weight"):
        load_model(tmp_path / "m.tar")
    first = next(iter(state))
    torch.save({**state, first: torch.zeros(1)}, tmp_path / "m.tar")
    with pytest.raises(ValueError, match=f"of another shape: {first} "):
        load_model(tmp_path / "m.tar")


def test_other_files_are_none_of_theirs(tmp_path):
    from torchvision.models import resnet18, vgg16_bn

    with torch.device("meta"):
        for network in (resnet18(), vgg16_bn(), IRClassifier(3)):
            assert layout_of(network.state_dict()) is None
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is a checkpoint, but not a bido_ext.model file"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize("kind", [Mcnn, McnnVib])
def test_pretrained_takes_their_files(kind, tmp_path):
    theirs = shaken(kind(9))
    torch.save({"state_dict": nn.DataParallel(theirs).state_dict()}, tmp_path / "m.tar")
    model = build_model("mcnn", 5)
    load_pretrained(model, tmp_path / "m.tar")
    assert torch.equal(model.layer3[0].weight, theirs.layer3[0].weight)
    if kind is Mcnn:
        same = build_model("mcnn", 9)
        load_pretrained(same, tmp_path / "m.tar", reinit=())
        assert torch.equal(same.head.weight, theirs.fc_layer.weight)
    broken = {**theirs.state_dict()}
    del broken["layer2.0.bias"]
    torch.save(broken, tmp_path / "m.tar")
    with pytest.raises(ValueError, match=r"missing: layer2.0.bias"):
        load_pretrained(model, tmp_path / "m.tar")


def bido(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


def test_export_and_the_way_back_by_command(tmp_path):
    model = shaken(build_model("mcnn", 5))
    save_model(tmp_path / "model.pt", model, "mcnn", 5, "bido-hsic", {})
    done = bido(
        "export",
        tmp_path / "model.pt",
        "--format",
        "authors",
        "--out",
        tmp_path / "m.tar",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["class"] == "MCNN"
    here = ["--preset", "smoke", "--json"]
    first, second = (bido("evaluate", tmp_path / name, *here) for name in ("model.pt", "m.tar"))
    assert second.exit_code == 0, second.stderr
    share = [json.loads(run.stdout)["natural_accuracy"] for run in (first, second)]
    assert share[0] == share[1]
    attacked = bido(
        "attack", tmp_path / "m.tar", "--prior", tmp_path / "gan", "--out", tmp_path / "a", *here
    )
    assert attacked.exit_code == 0, attacked.stderr
    trained = bido("train", "--pretrained", tmp_path / "m.tar", "--out", tmp_path / "t", *here)
    assert trained.exit_code == 0, trained.stderr


def test_export_refuses_what_they_do_not_have(tmp_path):
    with pytest.raises(
        ValueError, match="the authors' code has no 'resnet-clsh'; it has facenet112"
    ):
        write_authors(build_model("resnet-clsh", 5), "resnet-clsh", {}, tmp_path / "m")
    options = {"width": 0.0625}
    with pytest.raises(ValueError, match=r"without options, this model has width=0.0625"):
        write_authors(build_model("vgg16", 5, options=options), "vgg16", options, tmp_path / "m")
    with pytest.raises(ValueError, match=r"layout must be one of VGG16 \(hsic_training\), VGG16 "):
        write_authors(build_model("vgg16", 5), "vgg16", {}, tmp_path / "m", "MCNN")
    save_model(tmp_path / "m.pt", build_model("mcnn", 5), "mcnn", 5, "none", {})
    done = bido("export", tmp_path / "m.pt", "--format", "onnx", "--out", tmp_path / "x")
    assert done.exit_code == 2
    assert "--format must be one of authors, got 'onnx'" in done.stderr
    assert not (tmp_path / "x").exists()
