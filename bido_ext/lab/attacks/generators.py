# SPDX-License-Identifier: Apache-2.0
"""What PPA and VMI ask of a generator, so that any generator can serve.

Two methods, after StyleGAN's two halves: ``mapping`` takes standard normal noise to the latents
that an attack searches, ``synthesis`` takes latents to images.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .networks import LATENT_DIM, Generator


class LatentGenerator(Protocol):
    """A generator as PPA and VMI use it; it must be an ``nn.Module`` too.

    Attributes:
        z_dim: width of the noise.
        shape: (channels, height, width) of the images.
    """

    z_dim: int
    shape: tuple[int, int, int]

    def mapping(self, z: Tensor) -> Tensor:
        """Noise (n, z_dim) -> latents (n, ...)."""

    def synthesis(self, latents: Tensor) -> Tensor:
        """Latents (n, ...) -> images (n, *shape), in [0, 1] up to a little overshoot."""


class LayeredGenerator(LatentGenerator, Protocol):
    """A ``LatentGenerator`` whose synthesis can be entered in between, as IF-GMI does.

    Attributes:
        layers: of the synthesis.
    """

    layers: int

    def through(
        self, first: int, last: int, latents: Tensor, state: Sequence[Tensor]
    ) -> list[Tensor]:
        """Layers ``first`` to ``last - 1``: a state -> a state, features in front.

        The state before layer 0 is empty. What follows the features is on its way to the image.
        """

    def image(self, state: Sequence[Tensor]) -> Tensor:
        """The state behind the last layer -> images (n, *shape)."""


class DirectLatents(nn.Module):
    """A plain generator, searched in its noise: the mapping is the identity.

    Its layers are those of ``generator.blocks()``; one where there is no such method.

    Args:
        generator: (n, z_dim) -> images in [0, 1].
        z_dim: width of the noise.
        shape: of the images; None asks ``generator.shape``.
    """

    def __init__(
        self, generator: nn.Module, z_dim: int = LATENT_DIM, shape: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.generator, self.z_dim = generator, z_dim
        channels, height, width = generator.shape if shape is None else shape  # type: ignore[misc]
        self.shape = (int(channels), int(height), int(width))

    def mapping(self, z: Tensor) -> Tensor:
        """The noise itself."""
        return z

    def synthesis(self, latents: Tensor) -> Tensor:
        """The generator."""
        return self.generator(latents)

    @property
    def layers(self) -> int:
        """See ``LayeredGenerator``."""
        return len(self._blocks())

    def through(
        self, first: int, last: int, latents: Tensor, state: Sequence[Tensor]
    ) -> list[Tensor]:
        """See ``LayeredGenerator``."""
        x = state[0] if first else latents
        for block in self._blocks()[first:last]:
            x = block(x)
        return [x]

    def image(self, state: Sequence[Tensor]) -> Tensor:
        """See ``LayeredGenerator``."""
        return state[0]

    def _blocks(self) -> list[nn.Module]:
        made = getattr(self.generator, "blocks", None)
        return made() if callable(made) else [self.generator]


def as_latent_generator(generator: nn.Module) -> nn.Module:
    """``generator`` with the two methods; GMI's and KED-MI's generators get them.

    Raises:
        TypeError: a generator without them.
    """
    if isinstance(generator, Generator):
        return DirectLatents(generator)
    wanted = ("z_dim", "shape", "mapping", "synthesis")
    missing = [name for name in wanted if not hasattr(generator, name)]
    if missing or not isinstance(generator, nn.Module):
        raise TypeError(
            "generator must be an nn.Module with z_dim, shape, mapping(z) and synthesis(latents), "
            f"{type(generator).__name__} has no {', '.join(missing) or 'parameters'}; wrap a plain "
            "generator in DirectLatents"
        )
    return generator


def without_gradients(
    synthesise: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Latents on any device -> images in [0, 1] on ``device``, for a search that asks only."""

    def images(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return synthesise(latents.to(device)).clamp(0, 1)

    return images
