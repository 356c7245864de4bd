# SPDX-License-Identifier: Apache-2.0
"""The steps of an experiment, each in its own resumable folder.

``bido train``, ``bido attack``, ``bido evaluate`` and ``bido demo`` all call these functions: the
demo is the single commands in a row.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bido_ext.lab.data import DataConfig, DigitTask, ImageTask, load_task
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.models.pretrained import file_sha256
from bido_ext.lab.training.check import check_training
from bido_ext.lab.training.train import TrainConfig, TrainResult, train_classifier, train_evaluator


@dataclass(frozen=True)
class LabData:
    """The sets of the experiment and the hash of their images and of the split."""

    name: str
    digest: str
    task: DigitTask | ImageTask


@dataclass(frozen=True)
class Trained:
    """A trained classifier in evaluation mode; accuracies in [0, 1]."""

    model: nn.Module
    val_accuracy: float
    test_accuracy: float
    seconds: float
    path: Path
    note: str


def load_data(name: str, root: Path | None = None, image_size: int = 32) -> LabData:
    """Load and split a data set, key of ``DATASETS``; ``root`` is its folder.

    Raises:
        ValueError: If the name is unknown or the folder holds something else.
    """
    return load_images(DataConfig(private=name, root=root, image_size=image_size))


def load_images(config: DataConfig, *, progress: bool = False) -> LabData:
    """Load and split what ``config`` names.

    Raises:
        ValueError: If a folder is missing, or holds something else or damaged files.
    """
    task = load_task(config, progress=progress)
    name = config.private if config.public is None else f"{config.private}+{config.public}"
    return LabData(name, task.digest, task)


def train_target(data: LabData, config: TrainConfig, out: Path, options: RunOptions) -> Trained:
    """Train one classifier on the private classes; a finished one is loaded.

    Raises:
        ValueError: If ``out`` holds another configuration, see ``Stage``.
    """
    return _train("target", data, config, out, options)


def train_judge(data: LabData, config: TrainConfig, out: Path, options: RunOptions) -> Trained:
    """Train the evaluation classifier on all ten digits; a finished one is loaded.

    Raises:
        ValueError: If ``out`` holds another configuration, see ``Stage``.
    """
    return _train("evaluator", data, config, out, options)


def _train(
    role: str, data: LabData, config: TrainConfig, out: Path, options: RunOptions
) -> Trained:
    training = asdict(config)
    if config.pretrained:  # the same weights are the same training, wherever they lie
        training["pretrained"] = file_sha256(config.pretrained)
    # Before the folder is touched: --fresh must not cost what is in it.
    check_training(config, data.task, evaluator=role == "evaluator")
    stage = Stage(
        out,
        stage_config(role, data=data.digest, training=training),
        "model.pt",
        grows="training.epochs",
        stuck=config.stuck,
    )
    with locked(out, options.patience):
        outcome = stage.outcome(options)
        if outcome is None:
            outcome = _fit(role, data, config, out, options)
            stage.finish(outcome)
        # The file, even after training: a run gives the same numbers whether it was interrupted or
        # not.
        model, _ = load_model(stage.product, expect_arch=config.arch)
    model.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(model, **outcome, path=stage.product, note=stage.note)


def _fit(
    role: str, data: LabData, config: TrainConfig, out: Path, options: RunOptions
) -> dict[str, float]:
    result: TrainResult
    if role == "evaluator":
        result = train_evaluator(
            data.task, out, config=config, progress=options.progress, device=options.device
        )
    else:
        result = train_classifier(
            config, data.task, out, progress=options.progress, device=options.device
        )
    return {
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "seconds": result.seconds,
    }


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA if there is one), or the name of a device.

    Raises:
        ValueError: If PyTorch knows no such device or it is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        # PyTorch goes on with the list of its backends, or of its device types.
        reason = re.split(r"\. This could be|\n|: got ", str(error))[0]
        if found := re.match(r"Could not run .* from the '(\w+)' backend", reason):
            reason = f"this PyTorch has no backend {found[1]}"
        raise ValueError(_unusable(name, f" ({reason})")) from None
    if device.type == "meta":  # tensors without numbers
        raise ValueError(_unusable(name, ""))
    return device


def _unusable(name: str, reason: str) -> str:
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    usable = ", ".join(["auto", "cpu", *(kind for kind, here in kinds.items() if here)])
    return f"device {name!r} cannot be used here{reason}; choose one of {usable}"


def stage_config(role: str, **settings: Any) -> dict[str, Any]:
    """What a stage's outcome depends on, with its role and this package's version."""
    try:
        version = metadata.version("bido-ext")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        version = "unknown"
    return {"stage": role, "bido_ext": version, **settings}
