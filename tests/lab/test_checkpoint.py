# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or absent, harmless, and only the right model's."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bido_ext.lab.data.atomic import remove_leftovers
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import (
    load_checkpoint,
    load_model,
    resume_or_none,
    save_model,
    weights_digest,
)
from bido_ext.lab.models.safe_save import save_atomic


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.pt"
    save_model(path, build_model("mcnn", 5), "mcnn", 5, "none", {"test_accuracy": 0.5})
    return path


def test_model_comes_back(model_file):
    model, info = load_model(model_file, expect_arch="mcnn", expect_num_classes=5)
    saved = torch.load(model_file, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert info["metrics"] == {"test_accuracy": 0.5}
    assert (info["defence"], info["version"]) == ("none", 1)


def test_mid_model_comes_back_with_its_bottleneck(tmp_path):
    model, x = build_model("mcnn", 5, "mid").eval(), torch.rand(2, 1, 32, 32)
    save_model(tmp_path / "model.pt", model, "mcnn", 5, "mid", {})
    torch.testing.assert_close(load_model(tmp_path / "model.pt")[0](x), model(x))


def test_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "state.pt"
    save_atomic({"step": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"step": lambda: None}, path)
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"expect_arch": "scnn"}, r"holds a model with arch='mcnn', expected 'scnn'"),
        ({"expect_num_classes": 10}, r"holds a model with num_classes=5, expected 10"),
    ],
)
def test_another_model_is_refused(model_file, expected, message):
    with pytest.raises(ValueError, match=message):
        load_model(model_file, **expected)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_model(tmp_path / "m.pt", build_model("scnn", 5), "mcnn", 5, "none", {})
    with pytest.raises(ValueError, match="do not fit the architecture 'mcnn' it names"):
        load_model(tmp_path / "m.pt")


def test_truncated_missing_and_foreign_files_are_refused(model_file, tmp_path):
    model_file.write_bytes(model_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.pt is not a readable checkpoint"):
        load_model(model_file)
    with pytest.raises(ValueError, match=r"there is no checkpoint .*absent\.pt"):
        load_model(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"is no file; give a checkpoint in it"):
        load_model(tmp_path)
    save_atomic({"step": 1}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"not a bido_ext\.model file; it is one of other software"
    ):
        load_model(tmp_path / "other.pt")


def test_file_of_a_later_format_is_refused(model_file):
    save_atomic({**load_checkpoint(model_file), "version": 2}, model_file)
    with pytest.raises(ValueError, match="has format version 2, this release reads 1"):
        load_model(model_file)


class _Touch:
    """Unpickles into a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_executed(tmp_path):
    torch.save({"format": _Touch(tmp_path / "owned")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_digest_tells_models_apart():
    first, second = build_model("mcnn", 5), build_model("mcnn", 5)
    assert weights_digest(first) != weights_digest(second)
    second.load_state_dict(first.state_dict())
    assert weights_digest(first) == weights_digest(second)


def test_digest_is_of_the_bytes_in_any_dtype():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    by_numpy = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        by_numpy.update(name.encode() + value.numpy().tobytes())
    assert weights_digest(model) == by_numpy.hexdigest()
    first = weights_digest(model.bfloat16())
    with torch.no_grad():
        model[0].bias[0] += 1
    assert weights_digest(model) != first


def test_resume_wants_the_same_settings(tmp_path):
    path = tmp_path / "state.pt"
    assert resume_or_none(path, {"lr": 1.0}) is None
    save_atomic({"settings": {"lr": 1.0}}, path)
    assert resume_or_none(path, {"lr": 1.0}) == {"settings": {"lr": 1.0}}
    with pytest.raises(
        ValueError, match=r"was made with lr=1\.0, now lr=2\.0; give another folder"
    ):
        resume_or_none(path, {"lr": 2.0})


def test_leftovers_of_killed_processes_go_and_others_stay(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = (
        f".model.pt.{gone.pid}.part",
        f".model.pt.{os.getpid()}.part",
        ".mine.part",
        "model.pt",
    )
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
