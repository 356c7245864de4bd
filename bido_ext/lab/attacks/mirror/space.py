# SPDX-License-Identifier: Apache-2.0
"""Where a generator's own latents lie: MIRROR's P space and its bounds."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from bido_ext.lab.attacks.generators import DirectLatents
from bido_ext.lab.attacks.rows import stream_seed

_SLOPE = 0.2  # of the leaky ReLU behind StyleGAN's w


class SpaceSettings(Protocol):
    """What both forms of MIRROR say of it."""

    @property
    def seed(self) -> int:
        """Starts the stream of the samples."""

    @property
    def space_samples(self) -> int:
        """Samples that mean and deviation come from."""

    @property
    def bound(self) -> float:
        """Standard deviations from the mean."""


class Space:
    """Where the generator's own latents lie: mean and deviation in front of the last activation.

    Args:
        source: a ``LatentGenerator``; StyleGAN's w is what a leaky ReLU made, a plain generator's
            noise is taken as it is.
    """

    def __init__(self, source: Any, config: SpaceSettings) -> None:
        self.source = source
        self.activated = not isinstance(source, DirectLatents)
        random = torch.Generator().manual_seed(stream_seed(config.seed, "mirror space"))
        drawn = self.sampled(torch.randn(config.space_samples, source.z_dim, generator=random))
        self.mean, self.std = drawn.mean(0), drawn.std(0, correction=0)
        self.low = self.mean - config.bound * self.std
        self.high = self.mean + config.bound * self.std

    @torch.no_grad()
    def sampled(self, z: Tensor) -> Tensor:
        """Noise (n, z_dim) -> points (n, dim), on the CPU."""
        weight = next(self.source.parameters())
        parts = [self.source.mapping(part.to(weight)).cpu() for part in z.split(1000)]
        latents = torch.cat(parts)
        if latents.dim() != 2:
            raise ValueError(f"generator must have latents (n, dim), got {tuple(latents.shape)}")
        return torch.where(latents < 0, latents / _SLOPE, latents) if self.activated else latents

    def latents(self, points: Tensor) -> Tensor:
        """Points -> the generator's latents."""
        return torch.where(points < 0, points * _SLOPE, points) if self.activated else points

    def bounded(self, points: Tensor) -> Tensor:
        """Points no further from the mean than allowed."""
        return torch.minimum(torch.maximum(points, self.low), self.high)
