# SPDX-License-Identifier: Apache-2.0
"""The loss of one training step under a defence."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.defences import Defence, Penalty, Step


class StepLoss:
    """Task loss, the images that the defence adds, and its penalty, for the steps of one epoch.

    Args:
        model: The classifier.
        defence: Of the training.
        penalty: From ``defence.attached(model)``.
        epoch, epochs: Which of how many, from 1.
    """

    def __init__(
        self, model: nn.Module, defence: Defence, penalty: Penalty, epoch: int, epochs: int
    ) -> None:
        self.model, self.defence, self.penalty = model, defence, penalty
        self.epoch, self.epochs = epoch, epochs
        # The input as the network sees it: BiDO's X.
        self._seen: Callable[[Tensor], Tensor] = getattr(model, "seen", lambda x: x)

    def __call__(
        self, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward of the batch and of what joins it.

        Args:
            x: Images (n, channels, height, width) in [0, 1].
            y: Labels (n,).
            generator: Of the defence's draws, on the CPU.

        Returns:
            The loss, and its parts (detached) under the names of the log's columns.
        """
        images = self.defence.images(x, generator)
        step = Step(self.model, x, images, y, self._task_loss, generator)
        extras = self.defence.extras(step)
        joined = torch.cat([images, *(e.images for e in extras)]) if extras else images
        logits, *others = self.model(joined).split([len(x), *(len(e.images) for e in extras)])
        entropy = F.cross_entropy(logits, y)
        own = self.defence.task_loss(logits, y, self.epoch, self.epochs)
        loss, parts = entropy if own is None else own, {"ce": entropy.detach()}
        for extra, answers in zip(extras, others, strict=True):
            more = self._task_loss(answers, extra.labels)
            parts[extra.name] = more.detach()
            loss = extra.kept * loss + extra.weight * more
        term, told = self.penalty(self._seen(images), logits, y)
        return (loss if term is None else loss + term), {**parts, **told}

    def _task_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        own = self.defence.task_loss(logits, y, self.epoch, self.epochs)
        return F.cross_entropy(logits, y) if own is None else own
