# SPDX-License-Identifier: Apache-2.0
"""What a training would refuse, told before anything is written or trained."""

from __future__ import annotations

import torch
from torch import nn

from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.defences import Defence, Plan
from bido_ext.lab.models import build_model, load_pretrained

from .batches import EpochBatches
from .splits import Task, check_images, splits_of
from .train import taps_of
from .train_config import TrainConfig


def check_training(config: TrainConfig, task: Task, *, evaluator: bool) -> None:
    """Refuse what the training would refuse.

    Raises:
        ValueError: the images, the batches, the defence or the pretrained weights do not fit.
    """
    data = splits_of(config, task, evaluator=evaluator)
    train = ImageSet.of(data.train)
    check_images(config, train)
    EpochBatches(config, train.labels)
    model = _model_of(config, data.num_classes)
    if config.pretrained:
        load_pretrained(model, config.pretrained, config.reinit)
    _prepare(config, model, data.num_classes, len(train))


def check_defence(config: TrainConfig, num_classes: int, images: int) -> None:
    """Refuse a defence that cannot be had with this classifier, or lacks what it needs.

    Raises:
        ValueError: the network has no such layers, or there are no pretrained weights.
    """
    _prepare(config, _model_of(config, num_classes), num_classes, images)


def _model_of(config: TrainConfig, num_classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build_model(config.arch, num_classes, config.defence, config.model_options)


def _prepare(config: TrainConfig, model: nn.Module, num_classes: int, images: int) -> None:
    plan = Plan(num_classes, images, config.batch_size, config.epochs, bool(config.pretrained))
    Defence(config.defence, config.weights, config.taps or taps_of(model)).prepare(model, plan)
