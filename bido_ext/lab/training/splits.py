# SPDX-License-Identifier: Apache-2.0
"""The images of one training, and whether they fit it, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import TensorDataset

from bido_ext.lab.data.digits import DigitTask
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.data.task import ImageTask
from bido_ext.lab.models import find_model

from .train_config import TrainConfig

Task = DigitTask | ImageTask
Images = TensorDataset | ImageSet


@dataclass(frozen=True)
class Splits:
    """The splits of one training."""

    train: Images
    val: Images
    test: Images
    num_classes: int


def splits_of(config: TrainConfig, task: Task, *, evaluator: bool) -> Splits:
    """Those of a target, or of the evaluation classifier, which has a validation tenth of its own."""
    if not evaluator:
        return Splits(task.train, task.val, task.test, task.num_classes)
    images = ImageSet.of(task.judge_train)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    val, train = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    return Splits(images.subset(train), images.subset(val), task.judge_test, task.judge_classes)


def check_images(config: TrainConfig, train: ImageSet) -> None:
    """Raise ValueError unless ``config.arch`` takes images of this shape."""
    shape = find_model(config.arch).shape(config.arch_options)
    if train.shape != shape:
        raise ValueError(f"arch {config.arch!r} takes images of shape {shape}, got {train.shape}")
