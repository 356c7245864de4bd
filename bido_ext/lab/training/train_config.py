# SPDX-License-Identifier: Apache-2.0
"""What one training run is: a checked, frozen description that also identifies its checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Literal, get_args

from bido_ext.lab.data.training_augment import training_augmentation
from bido_ext.lab.defences import arch_options_of, draws_batches, follows_epochs, resolve_weights
from bido_ext.lab.models import find_model

from .checked import Count, Names, Numbers, Part, Positive, Several, Share, Weight, checked

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine", "multistep"]
Sampler = Literal["shuffle", "identity"]
OPTIMIZERS, SCHEDULES, SAMPLERS = map(get_args, (Optimizer, Schedule, Sampler))


@checked
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
    epochs: Count = 20
    batch_size: Several = 64
    lr: Positive = 1e-3
    optimizer: Optimizer = "adam"
    momentum: Share = 0.9
    weight_decay: Weight = 0.0
    schedule: Schedule = "constant"
    seed: int = 0
    augment: str = "none"
    arch_options: Mapping[str, Any] = field(default_factory=dict)
    milestones: Numbers = ()
    gamma: float = 0.1
    sampler: Sampler = "shuffle"
    per_identity: Count = 4
    taps: Names = ()
    pretrained: str = ""
    reinit: Names = ("head",)
    stop: Part = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.defence, self.weights))
        options = find_model(self.arch).resolve(self.arch_options)
        object.__setattr__(self, "arch_options", options)
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
