# SPDX-License-Identifier: Apache-2.0
"""Pretrained weights: loaded by name, and every name that does not fit is told."""

import re

import pytest
import torch
import torchvision
from torchvision.models import resnet18
from torchvision.models.vgg import VGG, make_layers

from bido_ext.lab.models import build_model, load_pretrained
from bido_ext.lab.models.checkpoint import save_model

TINY = {"width": 0.0625, "image_size": 32}


def _vgg(options=None):
    return build_model("vgg16", 5, options=options or TINY)


@pytest.fixture
def vgg_file(tmp_path):
    """A file as torchvision's VGG16-bn writes them, narrow."""
    channels = [c if c == "M" else c // 16 for c in torchvision.models.vgg.cfgs["D"]]
    network = VGG(make_layers(channels, batch_norm=True), 11, init_weights=False)
    state = {k: torch.rand_like(v.float()) for k, v in network.features.state_dict().items()}
    content = {f"features.{k}": v for k, v in state.items()}
    content["classifier.6.weight"] = torch.rand(11, 4)
    path = tmp_path / "vgg.pth"
    torch.save(content, path)
    return path, state


def test_torchvision_file_gives_the_backbone_and_leaves_the_head(vgg_file):
    path, state = vgg_file
    model = _vgg()
    before = model.head.weight.clone()
    load_pretrained(model, path)
    assert torch.equal(model.backbone[0].weight, state["0.weight"])
    assert torch.equal(model.backbone[41].running_var, state["41.running_var"])
    assert torch.equal(model.head.weight, before)


def test_under_mid_the_body_is_loaded(vgg_file):
    path, state = vgg_file
    model = build_model("vgg16", 5, "mid", TINY)
    load_pretrained(model, path)
    assert torch.equal(model.body.backbone[0].weight, state["0.weight"])


def test_without_reinit_every_weight_must_come(vgg_file):
    with pytest.raises(ValueError, match=r"missing: .*head.weight.*unexpected: head.6.weight"):
        load_pretrained(_vgg(), vgg_file[0], reinit=())


def test_safetensors_of_a_library_model(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    network = resnet18(num_classes=9)
    safetensors.save_file(network.state_dict(), tmp_path / "r.safetensors")
    model = build_model("torchvision/resnet18", 5)
    load_pretrained(model, tmp_path / "r.safetensors")
    assert torch.equal(model.network.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    model = build_model("torchvision/resnet18", 9)
    load_pretrained(model, tmp_path / "r.safetensors", reinit=())
    assert torch.equal(model.head.weight, network.fc.weight)
    (tmp_path / "bad.safetensors").write_bytes(b"12")
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a readable file of weights"):
        load_pretrained(model, tmp_path / "bad.safetensors")


def test_old_names_of_densenet(tmp_path):
    model = build_model("torchvision/densenet121", 5, options={"image_size": 32})
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value + 1
        for name, value in model.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "dense.pth")
    before = model.network.features.denseblock1.denselayer1.norm1.weight.clone()
    load_pretrained(model, tmp_path / "dense.pth")
    after = model.network.features.denseblock1.denselayer1.norm1.weight
    assert torch.equal(after, before + 1)


def test_face_backbone_at_another_size(tmp_path):
    options = {"width": 0.0625}
    file = build_model("facenet112", 5, options=options).state_dict()
    file = {f"module.{k}": v for k, v in file.items() if not k.startswith("head.")}
    torch.save({"state_dict": file}, tmp_path / "ir50.pth")
    load_pretrained(build_model("facenet112", 9, options=options), tmp_path / "ir50.pth")
    small = build_model("facenet64", 9, options=options)
    with pytest.raises(ValueError, match=r"of another shape: output_layer\.3\.weight \(32, 1568\)"):
        load_pretrained(small, tmp_path / "ir50.pth")
    load_pretrained(small, tmp_path / "ir50.pth", reinit=("head", "output_layer"))
    assert torch.equal(small.body[3].res_layer[1].weight, file["module.body.3.res_layer.1.weight"])


def test_own_model_file(tmp_path):
    first, second = _vgg(), _vgg()
    save_model(tmp_path / "model.pt", first, "vgg16", 5, "none", {}, TINY)
    load_pretrained(second, tmp_path / "model.pt", reinit=())
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_a_foreign_file_names_what_is_wrong_and_changes_nothing(tmp_path):
    model = _vgg()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"missing: backbone\.0\.weight.* more; unexpected: encoder\.weight"
    ):
        load_pretrained(model, tmp_path / "other.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"pretrained: there is no file .*none\.pth"):
        load_pretrained(_vgg(), tmp_path / "none.pth")
    torch.save(_vgg(), tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match="is not a readable file of weights"):
        load_pretrained(_vgg(), tmp_path / "pickled.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no mapping of names to tensors"):
        load_pretrained(_vgg(), tmp_path / "list.pth")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(
        ValueError, match="reinit must name modules of the model or 'head', got 'x'"
    ):
        load_pretrained(_vgg(), tmp_path / "empty.pth", reinit=("x",))
