# SPDX-License-Identifier: Apache-2.0
"""Folders of runs: one run at a time, nothing lost by a refused one, more epochs go on."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from bido_ext.lab.attacks import GanConfig, GmiConfig, KedConfig, PpaConfig, VmiConfig
from bido_ext.lab.data import atomic
from bido_ext.lab.data.atomic import NotWrittenError, write_text
from bido_ext.lab.experiments import lock
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.pipeline import load_data, pick_device, train_judge, train_target
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.models.checkpoint import load_checkpoint
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.training.train import TrainConfig

CONFIG = TrainConfig(epochs=1, batch_size=32)
QUIET = RunOptions(progress=False)


@pytest.fixture(scope="module")
def data():
    return load_data("synthetic")


def _held_elsewhere(folder):
    """Another process that holds a folder until its stdin closes."""
    script = f"""
        from pathlib import Path
        from bido_ext.lab.experiments.lock import locked
        with locked(Path({str(folder)!r})):
            print("held", flush=True)
            input()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_two_runs_into_one_folder(data, tmp_path):
    impatient = replace(QUIET, patience=0.1)
    other = _held_elsewhere(tmp_path / "out")
    for train in (train_target, train_judge):
        with pytest.raises(
            ValueError, match=r"another run is writing into .*out; wait until it en"
        ):
            train(data, CONFIG, tmp_path / "out", impatient)
    assert not (tmp_path / "out" / "stage.json").exists()
    other.kill()  # whatever way a run ends, the folder is free
    other.wait()
    assert train_target(data, CONFIG, tmp_path / "out", QUIET).path.is_file()


def test_a_folder_held_by_the_same_process(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match="another run is writing into"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_refused_run_binds_nobody(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size=100000 is larger than the training set"):
        train_target(data, replace(CONFIG, batch_size=100_000), tmp_path / "a", QUIET)
    assert not (tmp_path / "a" / "stage.json").exists()
    refused = replace(CONFIG, defence="bido-hsic", taps=("nowhere",))
    with pytest.raises(ValueError, match="nowhere"):
        train_target(data, refused, tmp_path / "a", QUIET)
    train_target(data, CONFIG, tmp_path / "a", QUIET)


def test_fresh_runs_that_are_refused_cost_nothing(data, tmp_path):
    path = train_target(data, CONFIG, tmp_path, QUIET).path
    before = path.read_bytes()
    for change in ({"batch_size": 100_000}, {"arch": "lenet3"}):
        with pytest.raises(ValueError, match=r"batch_size|takes images of shape"):
            train_target(data, replace(CONFIG, **change), tmp_path, replace(QUIET, fresh=True))
    assert path.read_bytes() == before


def test_stages_without_any_work_belong_to_nobody(tmp_path):
    Stage(tmp_path, {"stage": "target", "a": 1}, "model.pt").outcome(QUIET)
    assert Stage(tmp_path, {"stage": "attack", "a": 2}, "x.pt").outcome(QUIET) is None
    (tmp_path / "latents.pt").touch()
    with pytest.raises(ValueError, match=r"made with another configuration \(a: 2 -> 3\)"):
        Stage(tmp_path, {"stage": "attack", "a": 3}, "x.pt").outcome(QUIET)


def test_a_finished_run_goes_on_to_more_epochs(data, tmp_path):
    whole = train_target(data, replace(CONFIG, epochs=2), tmp_path / "whole", QUIET)
    train_target(data, CONFIG, tmp_path / "grown", QUIET)
    grown = train_target(data, replace(CONFIG, epochs=2), tmp_path / "grown", QUIET)
    assert grown.note == "continues (training.epochs: 1 -> 2)"
    first, second = whole.model.state_dict(), grown.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert grown.test_accuracy == whole.test_accuracy
    saved = json.loads((tmp_path / "grown" / "stage.json").read_text())
    assert saved["config"]["training"]["epochs"] == 2
    assert saved["outcome"] is not None
    for change in ({"epochs": 1}, {"epochs": 3, "lr": 1e-2}, {"epochs": 3, "schedule": "cosine"}):
        with pytest.raises(ValueError, match="was made with another configuration"):
            train_target(data, replace(CONFIG, **change), tmp_path / "grown", QUIET)


def test_why_a_cosine_does_not_go_on_is_told(data, tmp_path):
    cosine = replace(CONFIG, schedule="cosine")
    train_target(data, cosine, tmp_path, QUIET)
    message = (
        r"epochs: 1 -> 2\), and a cosine schedule falls to 0 over .*constant.*; choose another"
    )
    with pytest.raises(ValueError, match=message):
        train_target(data, replace(cosine, epochs=2), tmp_path, QUIET)
    with pytest.raises(ValueError, match=r"lr: 0.001 -> 0.01\); choose another"):
        train_target(data, replace(cosine, lr=1e-2), tmp_path, QUIET)


def test_settings_must_be_finite(tmp_path):
    with pytest.raises(ValueError, match=r"training\.lr must be a finite number, got inf"):
        Stage(tmp_path, {"training": {"lr": float("inf")}}, "model.pt")


@pytest.mark.parametrize("config", [GanConfig, GmiConfig, KedConfig, PpaConfig, VmiConfig])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_settings_of_attacks_must_be_finite(config, value):
    for name in (name for name, default in vars(config()).items() if type(default) is float):
        with pytest.raises(ValueError, match=rf"{name} must be a finite number, got {value}"):
            config(**{name: value})


@pytest.fixture
def small_disk():
    """Writes beyond 50 kB fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_the_disk_refuses_is_named(tmp_path, small_disk):
    save_atomic({"step": 1}, tmp_path / "state.pt")
    for write in (
        lambda: save_atomic({"a": torch.zeros(100_000)}, tmp_path / "state.pt"),
        lambda: write_text(tmp_path / "state.pt", "a" * 100_000),
    ):
        with pytest.raises(
            NotWrittenError, match=r"state\.pt could not be written: File too large"
        ):
            write()
    assert load_checkpoint(tmp_path / "state.pt") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_is_named_with_its_room(tmp_path, monkeypatch):
    def full(obj, file):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 << 20}))
    message = r"m\.pt could not be written: No space left on device \(3 MiB are free there\); make"
    with pytest.raises(NotWrittenError, match=message):
        save_atomic({}, tmp_path / "m.pt")


def test_other_errors_of_a_writer_stay_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="not of the disk"), atomic.replacing(tmp_path / "a"):
        raise RuntimeError("not of the disk")
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="must be a folder, it is a file"),
        locked(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("name", ["mps", "toaster", "cuda:99", "meta", "xla", "hpu", "vulkan"])
def test_devices_that_are_not_there(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("MPS is here")
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here") as error:
        pick_device(name)
    text = str(error.value)
    assert "choose one of auto, cpu" in text
    assert len(text) < 300
    assert "backends: [" not in text
