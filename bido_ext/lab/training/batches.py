# SPDX-License-Identifier: Apache-2.0
"""Which images go into which batch of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.lab.data.identity_batches import IdentityBatches

from .train_config import TrainConfig


class EpochBatches:
    """The batches of training epochs under ``config.sampler``; no image is read.

    Args:
        config: The training.
        labels: (n,) int64, of the training images.

    Raises:
        ValueError: If there are not enough images or identities for one batch.
    """

    def __init__(self, config: TrainConfig, labels: Tensor) -> None:
        self.size, self.total = config.batch_size, len(labels)
        if self.total < self.size:
            raise ValueError(
                f"batch_size={self.size} is larger than the training set ({self.total} images)"
            )
        self.identities = (
            IdentityBatches(labels, config.batch_size, config.per_identity)
            if config.sampler == "identity"
            else None
        )

    def __len__(self) -> int:
        """The most batches of an epoch."""
        return self.total // self.size if self.identities is None else len(self.identities)

    def epoch(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Positions of the images of each batch; the last partial batch is dropped."""
        if self.identities is not None:
            return self.identities.epoch(generator)
        order = torch.randperm(self.total, generator=generator)
        return order[: self.total // self.size * self.size].split(self.size)
