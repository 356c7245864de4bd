# SPDX-License-Identifier: Apache-2.0
"""Files of weights from other programs: unwrapped, never executed, and refused by name."""

import argparse
import datetime
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bido_ext.lab.attacks.reconstructions import load_reconstructions
from bido_ext.lab.models import build_model, load_pretrained
from bido_ext.lab.models.checkpoint import load_checkpoint, load_model, resume_or_none, save_model
from bido_ext.lab.models.safe_load import load_plain, state_dict_of
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.models.wanted import MODEL

TINY = {"width": 0.0625, "image_size": 32}


def _vgg():
    return build_model("vgg16", 5, options=TINY)


def _loads(path, given):
    model = _vgg()
    load_pretrained(model, path, reinit=())
    return all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        *(
            lambda state, key=key: {key: state, "epoch": 3}
            for key in ("state_dict", "model", "model_state_dict", "net", "weights", "my own")
        ),
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"state_dict": state, "state_dict_ema": state},
        lambda state: {"net": state, "optimizer": {"state": {0: {}}, "param_groups": [{"lr": 1.0}]}},
        lambda state: {"net": state, "acc": np.float64(0.9), "best": np.int64(3), "n": np.str_("a")},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, names=["a"], out=Path("x"))},
        lambda state: {"model": state, "when": datetime.datetime(2024, 1, 1), "curve": np.ones(3)},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {name.replace("backbone.", "backbone._orig_mod."): v for name, v in state.items()},
    ],
)  # fmt: skip
def test_wrappers_and_prefixes(tmp_path, wrapped):
    state = _vgg().state_dict()
    torch.save(wrapped(state), tmp_path / "w.pth")
    assert _loads(tmp_path / "w.pth", state)


def test_averaged_and_compiled_models(tmp_path):
    model = _vgg()
    torch.save(AveragedModel(model).state_dict(), tmp_path / "a.pth")
    torch.save({"model": torch.compile(model).state_dict()}, tmp_path / "c.pth")
    torch.save(nn.DataParallel(model).state_dict(), tmp_path / "d.pth")
    for name in "acd":
        assert _loads(tmp_path / f"{name}.pth", model.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"generator": {"a": torch.ones(1)}, "critic": {"a": torch.ones(1)}},
            r"holds several mappings of names to tensors \(generator, critic\); save the wanted one",
        ),
        (
            {"epoch": 3, "args": {"lr": 1.0}},
            r"holds no mapping of names to tensors, but epoch \(int\), args \(dict\); save model\.st",
        ),
        ([1], "holds no mapping of names to tensors, but a list"),
        ({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}, "holds a weight twice"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load_pretrained(_vgg(), tmp_path / "w.pth")


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("load", [lambda path: load_pretrained(_vgg(), path), load_model])
def test_objects_of_other_programs_are_named_and_not_run(tmp_path, load):
    for content in ({"model": _vgg()}, {"a": _Touch(tmp_path / "owned")}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(
            ValueError, match=r"w\.pth is not a readable .*it holds a [\w.]+"
        ) as error:
            load(tmp_path / "w.pth")
        text = str(error.value)
        assert "save model.state_dict() alone" in text
        assert "weights_only" not in text
        assert len(text) < 400
    assert not (tmp_path / "owned").exists()
    options = argparse.Namespace(hook=_Touch(tmp_path / "owned"))
    torch.save({"args": options}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="is not a readable"):
        load(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"hello world", pickle.dumps({"a": 1}), b"PK\3\4"])
def test_files_that_torch_did_not_write(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth is not a readable checkpoint \(\w+.{10,}\)"):
        load_plain(tmp_path / "w.pth", MODEL)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    model = _vgg()
    with torch.no_grad():
        model.backbone[0].weight[0] = value
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth holds weights that are nan or infinite, in backbo"
    ):
        load_pretrained(_vgg(), tmp_path / "w.pth")
    save_model(tmp_path / "m.pt", model, "vgg16", 5, "none", {}, TINY)
    with pytest.raises(
        ValueError, match=r"m\.pt holds weights that are nan or infinite, in backbone"
    ):
        load_model(tmp_path / "m.pt")


@pytest.fixture
def model_file(tmp_path):
    save_model(tmp_path / "model.pt", build_model("mcnn", 5), "mcnn", 5, "none", {})
    return tmp_path / "model.pt"


@pytest.mark.parametrize("key", ["arch", "num_classes", "defence", "metrics", "state_dict"])
def test_a_model_file_without_its_entries(model_file, key):
    content = load_checkpoint(model_file)
    del content[key]
    save_atomic(content, model_file)
    with pytest.raises(ValueError, match=rf"model\.pt is damaged, it has no '{key}'; make it anew"):
        load_model(model_file)
    save_atomic({**content, key: 1.5}, model_file)
    with pytest.raises(
        ValueError, match=rf"model\.pt is damaged, its '{key}' is a float and not a"
    ):
        load_model(model_file)


@pytest.mark.parametrize("version", ["1", 2, None, 1.5])
def test_versions_are_shown_as_they_are(model_file, version):
    save_atomic({**load_checkpoint(model_file), "version": version}, model_file)
    with pytest.raises(ValueError, match=rf"has format version {version!r}, this release reads 1"):
        load_model(model_file)
    content = load_checkpoint(model_file)
    del content["version"]
    save_atomic(content, model_file)
    with pytest.raises(ValueError, match="has format version None, this release reads 1"):
        load_model(model_file)


def test_weights_of_another_type_are_refused(model_file):
    save_atomic({**load_checkpoint(model_file), "state_dict": {"a": 1}}, model_file)
    with pytest.raises(ValueError, match="do not fit the architecture 'mcnn'"):
        load_model(model_file)


def test_reconstructions_without_their_entries(tmp_path):
    path = tmp_path / "r.pt"
    good = {
        "format": "bido_ext.reconstructions", "version": 1, "config": {}, "classes": [0, 1],
        "images": torch.rand(2, 2, 1, 8, 8), "latents": torch.rand(2, 2, 3),
        "target_confidence": torch.rand(2, 2), "draws": 1,
    }  # fmt: skip
    save_atomic(good, path)
    assert load_reconstructions(path).classes == [0, 1]
    for key in ("config", "classes", "images", "latents", "target_confidence"):
        save_atomic({name: value for name, value in good.items() if name != key}, path)
        with pytest.raises(ValueError, match=rf"r\.pt is damaged, it has no '{key}'"):
            load_reconstructions(path)
    for images in (torch.rand(2, 3, 1, 8, 8), good["images"] * float("nan")):
        save_atomic({**good, "images": images}, path)
        with pytest.raises(ValueError, match=r"r\.pt is damaged, its images are .* for 2 classes"):
            load_reconstructions(path)


def test_a_checkpoint_without_its_entries(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for content, message in (
        ([1], "has no 'settings'"),
        ({"settings": {"lr": 1.0}}, "has no 'epoch'"),
        ({"settings": {"lr": 1.0}, "epoch": "3"}, "its 'epoch' is a str and not a int"),
    ):
        save_atomic(content, path)
        with pytest.raises(ValueError, match=rf"checkpoint\.pt is damaged, .*{message[3:]}"):
            resume_or_none(path, {"lr": 1.0}, {"epoch": int})


def test_the_mapping_itself_comes_first():
    state = {"state_dict": torch.ones(1), "b": torch.zeros(1)}
    assert state_dict_of(state, Path("it"), MODEL) == state
