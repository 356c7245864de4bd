# SPDX-License-Identifier: Apache-2.0
"""What one training run is: a checked, frozen description that also identifies its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .data.augment import augmentation
from .defences import resolve_weights
from .models import MODELS

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained.

    Attributes:
        arch: key of ``MODELS``.
        defence: key of ``DEFENCES``; ``weights`` override its default weights.
        epochs, batch_size: the last partial batch of an epoch is dropped.
        lr: learning rate at the start.
        optimizer: "adam", or "sgd" with ``momentum`` (Nesterov).
        schedule: "constant", or "cosine" from ``lr`` to 0 over the run.
        seed: of the initial weights, the order of the images and MID's noise.
        augment: key of ``AUGMENTATIONS``.
    """

    arch: str = "mcnn"
    defence: str = "none"
    weights: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    seed: int = 0
    augment: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.defence, self.weights))
        if self.arch not in MODELS:
            raise ValueError(f"arch must be one of {', '.join(MODELS)}, got {self.arch!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        for name, least in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        augmentation(self.augment)


# 2 epochs reach the accuracy the evaluation classifier needs on MNIST (printed with every result).
EVALUATOR = TrainConfig(arch="scnn", epochs=2, batch_size=128, lr=2e-3, schedule="cosine")
