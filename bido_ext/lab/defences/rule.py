# SPDX-License-Identifier: Apache-2.0
"""What a defence may do in a training, and the line that describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The loss term and its parts (detached) of one training step.
Penalty = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, dict[str, Tensor]]]


def no_penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Nothing enters the loss."""
    return None, {}


@dataclass(frozen=True)
class Plan:
    """What a defence may know of the training before it begins.

    Attributes:
        num_classes: outputs of the model.
        images: number of training images.
        batch_size: of a step, on average where the defence draws the batches.
        epochs: of the whole training.
        pretrained: whether the model starts from weights that were trained elsewhere.
    """

    num_classes: int
    images: int
    batch_size: int
    epochs: int
    pretrained: bool = False


@dataclass(frozen=True)
class Step:
    """One training step before its forward.

    Attributes:
        model: in training mode.
        raw: the images (n, channels, height, width) in [0, 1] before ``Rule.images``.
        images: as the model gets them.
        labels: (n,) int64.
        task_loss: what is minimized of logits and labels, cross-entropy or what replaces it.
        generator: of the CPU; all draws of a defence come from it, so that a run repeats.
    """

    model: nn.Module
    raw: Tensor
    images: Tensor
    labels: Tensor
    task_loss: Callable[[Tensor, Tensor], Tensor]
    generator: torch.Generator


@dataclass(frozen=True)
class Extra:
    """Images that a defence adds to a step, in the same forward.

    Attributes:
        name: column of their loss in the log.
        images: (k, channels, height, width); labels: (k,) int64.
        weight: of their task loss.
        kept: what the task loss of the step's own images is multiplied by.
    """

    name: str
    images: Tensor
    labels: Tensor
    weight: float
    kept: float = 1.0


class Rule:
    """One defence at work; a subclass overrides what it changes, the rest is plain training.

    Args:
        weights: all of its weights.
        taps: names of the watched modules.
    """

    def __init__(self, weights: Mapping[str, float], taps: tuple[str, ...]) -> None:
        self.weights, self.taps = weights, taps

    @property
    def follows_epochs(self) -> bool:
        """Whether the first epochs depend on how many follow."""
        return False

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """Change ``model`` before its optimiser is made, as by freezing layers.

        Raises:
            ValueError: the model cannot have this defence.
            ModuleNotFoundError: a package that the defence needs is not installed.
        """

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser of the training, or one around it."""
        return optimizer

    def batches(self, generator: torch.Generator) -> Sequence[Tensor] | None:
        """Positions of the images of each batch of an epoch; None: as the training draws them."""
        return None

    def set_training(self, model: nn.Module) -> None:
        """Called after ``model.train()`` of every epoch."""

    def images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The training images (n, channels, height, width) in [0, 1] as the model gets them."""
        return x

    def task_loss(self, logits: Tensor, y: Tensor, epoch: int, epochs: int) -> Tensor | None:
        """What takes the place of the cross-entropy in epoch 1 ... ``epochs``; None keeps it."""
        return None

    def extra(self, step: Step) -> Extra | None:
        """Images that join this step; may also train what the defence has beside the model."""
        return None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """Watch ``model``; yields the penalty of a step. Hooks are gone on exit.

        What is watched may have more rows than ``x``: those of ``extra`` come last.
        """
        yield no_penalty

    def told(self) -> dict[str, float]:
        """Numbers for the log at the end of an epoch, and for the model file."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a killed training needs beside the model: tensors and plain containers."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""

    def answers(self, probabilities: Tensor) -> Tensor:
        """What a query is told of the probabilities (n, classes); white-box attacks never ask."""
        return probabilities


@dataclass(frozen=True)
class DefenceSpec:
    """One defence.

    Attributes:
        name: as on the command line.
        weights: names of its weights with the defaults, all floats.
        description: one line, with its source.
        label: its name for people, in tables and plots.
        rule: what it does.
        needs_taps: whether the hidden layers are watched.
        may_be_negative: weights that may lie below 0.
        replaces_loss: whether ``task_loss`` is its own; two such defences do not combine.
        per_image: whether each image enters the gradient of a step once, and nothing of the
            others with it.
        needs_per_image: whether the others of a combination must be so.
        draws_batches: whether ``batches`` is its own.
        arch_options: its weights -> options of the classifier that it needs.
    """

    name: str
    weights: Mapping[str, float]
    description: str
    label: str
    rule: type[Rule] = Rule
    needs_taps: bool = False
    may_be_negative: tuple[str, ...] = ()
    replaces_loss: bool = False
    per_image: bool = False
    needs_per_image: bool = False
    draws_batches: bool = False
    arch_options: Callable[[Mapping[str, float]], dict[str, Any]] | None = None
