# SPDX-License-Identifier: Apache-2.0
"""What a defence may do in a training, and the line that describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


class Rule:
    """One defence at work; a subclass overrides what it changes, the rest is plain training.

    Args:
        weights: all of its weights.
        taps: names of the watched modules.
    """

    def __init__(self, weights: Mapping[str, float], taps: tuple[str, ...]) -> None:
        self.weights, self.taps = weights, taps

    def prepare(self, model: nn.Module, *, pretrained: bool) -> None:
        """Change ``model`` before its optimiser is made, as by freezing layers.

        Raises:
            ValueError: the model cannot have this defence.
        """

    def set_training(self, model: nn.Module) -> None:
        """Called after ``model.train()`` of every epoch."""

    def images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The training images (n, channels, height, width) in [0, 1] as the model gets them."""
        return x

    def task_loss(self, logits: Tensor, y: Tensor, epoch: int, epochs: int) -> Tensor | None:
        """What takes the place of the cross-entropy in epoch 1 ... ``epochs``; None keeps it."""
        return None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """Watch ``model``; yields the penalty of a step. Hooks are gone on exit."""
        yield no_penalty

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
        follows_epochs: whether the first epochs depend on how many follow.
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
    follows_epochs: bool = False
    arch_options: Callable[[Mapping[str, float]], dict[str, Any]] | None = None
