# SPDX-License-Identifier: Apache-2.0
"""LOKT's discriminator: one body, a score of realness and logits of the target's classes.

Its generator is PLG-MI's. The body is that of PLG-MI's discriminator, as published; the two heads
are plain linear layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.networks import DIGITS, check_shape
from bido_ext.lab.attacks.plg.network import halving


class AuxiliaryDiscriminator(nn.Module):
    """Images (n, *shape) -> scores (n,), higher for real ones, and class logits (n, num_classes).

    Args:
        num_classes: of the target.
        width: scales all channel counts; the published first block has 64.
        shape: (channels, side, side) of the images.

    Raises:
        ValueError: bad width or shape.
    """

    def __init__(self, num_classes: int, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape, self.num_classes = check_shape(shape), num_classes
        self.blocks, features = halving(self.shape, width)
        self.score = nn.Linear(features, 1)
        self.classes = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class logits, both with gradients."""
        h = self.blocks(x * 2 - 1).relu().sum((2, 3))
        return self.score(h).squeeze(1), self.classes(h)


class ClassHead(nn.Module):
    """The class logits alone: the discriminator as a surrogate of the target."""

    def __init__(self, discriminator: AuxiliaryDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        logits: torch.Tensor = self.discriminator(x)[1]
        return logits
