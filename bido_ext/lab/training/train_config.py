# SPDX-License-Identifier: Apache-2.0
"""What one training run is: a checked, frozen description that also identifies its checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bido_ext.lab.data.training_augment import training_augmentation
from bido_ext.lab.defences import arch_options_of, draws_batches, follows_epochs, resolve_weights
from bido_ext.lab.models import find_model

from .finite import check_finite

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "multistep")
SAMPLERS = ("shuffle", "identity")


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained.

    Attributes:
        arch: a classifier, see ``find_model``; ``arch_options`` override its options.
        defence: key of ``DEFENCES``, or several with "+" between them; ``weights`` override its
            default weights.
        epochs, batch_size: the last partial batch of an epoch is dropped.
        lr: learning rate at the start.
        optimizer: "adam", or "sgd" with ``momentum`` (Nesterov).
        schedule: "constant", "cosine" from ``lr`` to 0 over the run, or "multistep": times
            ``gamma`` after each epoch of ``milestones``.
        seed: of the initial weights, the order of the images and MID's noise.
        augment: one of ``TRAINING_AUGMENTATIONS``.
        sampler: "shuffle", or "identity": batches of ``per_identity`` images of each of
            ``batch_size / per_identity`` identities (what the published weights of BiDO on faces
            belong to).
        taps: layers that BiDO watches; empty: those of the classifier.
        pretrained: file of weights to start from; empty: none.
        reinit: modules that keep fresh weights beside it, see ``load_pretrained``.
        stop: share of the training's steps after which it ends early, in (0, 1]; the schedule stays
            that of the whole training.
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
    arch_options: Mapping[str, Any] = field(default_factory=dict)
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    sampler: str = "shuffle"
    per_identity: int = 4
    taps: tuple[str, ...] = ()
    pretrained: str = ""
    reinit: tuple[str, ...] = ("head",)
    stop: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.defence, self.weights))
        options = find_model(self.arch).resolve(self.arch_options)
        object.__setattr__(self, "arch_options", options)
        for name in ("milestones", "taps", "reinit"):  # lists of a file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {SAMPLERS}, got {self.sampler!r}")
        for name, least in (("epochs", 1), ("batch_size", 2), ("per_identity", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_finite(self)
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 < self.stop <= 1:
            raise ValueError(f"stop must be a share of the training in (0, 1], got {self.stop}")
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise ValueError(
                f"milestones belong to the schedule 'multistep', got {self.milestones} with "
                f"{self.schedule!r}"
            )
        if self.sampler == "identity" and self.batch_size % self.per_identity:
            raise ValueError(
                f"batch_size must be a multiple of per_identity={self.per_identity}, "
                f"got {self.batch_size}"
            )
        if self.sampler == "identity" and draws_batches(self.defence):
            raise ValueError(
                f"the defence {self.defence!r} draws the batches itself; sampler must be 'shuffle'"
            )
        training_augmentation(self.augment)

    @property
    def can_go_on(self) -> bool:
        """Whether the first epochs are the same however many follow."""
        return not self.stuck

    @property
    def stuck(self) -> str:
        """Why a finished run cannot go on; empty where it can."""
        if self.schedule == "cosine":
            return (
                "a cosine schedule falls to 0 over its number of epochs (--schedule constant or "
                "multistep can go on)"
            )
        if self.stop < 1:
            return "a training that is stopped early (--stop) depends on the number of epochs"
        if follows_epochs(self.defence, self.weights):
            return f"the defence {self.defence!r} depends on the number of epochs"
        return ""

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the classifier, those that the defence asks for included."""
        return {**self.arch_options, **arch_options_of(self.defence, self.weights)}

    def plain(self) -> dict[str, Any]:
        """The settings as JSON gives them back: lists in place of tuples."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


# 2 epochs reach the accuracy the evaluation classifier needs on MNIST (printed with every result).
EVALUATOR = TrainConfig(arch="scnn", epochs=2, batch_size=128, lr=2e-3, schedule="cosine")
