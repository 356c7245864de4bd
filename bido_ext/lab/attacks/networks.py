# SPDX-License-Identifier: Apache-2.0
"""Generator and critic of GMI (Zhang et al., CVPR 2020), in the sizes of the BiDO experiments.

64 x 64 images have one stage more than 32 x 32 ones; the published networks are those of
(3, 64, 64) and (1, 32, 32).
"""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

LATENT_DIM = 100
DIGITS = (1, 32, 32)
SIDES = (16, 32, 64, 128)

Shape = tuple[int, int, int]


class Generator(nn.Module):
    """Latents (n, 100) -> images (n, *shape) in [0, 1].

    Args:
        width: scales all channel counts of the published network.
        shape: (channels, side, side) of the images.

    Raises:
        ValueError: bad width or shape.
    """

    def __init__(self, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        channels = scaled(width, *reversed(doubling(self.shape)))
        first, last = channels[0], channels[-1]
        self.project = nn.Sequential(
            nn.Linear(LATENT_DIM, first * 16, bias=False), nn.BatchNorm1d(first * 16), nn.ReLU()
        )
        stages = [
            layer
            for inputs, outputs in itertools.pairwise(channels)
            for layer in _up(inputs, outputs)
        ]
        self.upsample = nn.Sequential(
            nn.Unflatten(1, (first, 4, 4)),
            *stages,
            nn.ConvTranspose2d(last, self.shape[0], 5, 2, 2, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.upsample(self.project(z))

    def blocks(self) -> list[nn.Sequential]:
        """The same layers in parts that end behind each ReLU, and behind the pixels."""
        first = nn.Sequential(self.project, self.upsample[0])
        last = len(self.upsample) - 2
        return [first, *(self.upsample[i : i + 3] for i in range(1, last, 3)), self.upsample[last:]]


class Critic(nn.Module):
    """Images (n, *shape) -> scores (n,), higher for real ones; arguments as of ``Generator``."""

    def __init__(self, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        channels = scaled(width, *doubling(self.shape))
        stages = [
            layer
            for inputs, outputs in itertools.pairwise(channels)
            for layer in down(inputs, outputs)
        ]
        self.layers = nn.Sequential(
            nn.Conv2d(self.shape[0], channels[0], 5, 2, 2),
            nn.LeakyReLU(0.2),
            *stages,
            nn.Conv2d(channels[-1], 1, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


def check_shape(shape: Sequence[int]) -> Shape:
    """``shape`` as a tuple.

    Raises:
        ValueError: not (1 or 3, side, side) with a side of ``SIDES``.
    """
    found = tuple(int(size) for size in shape)
    if len(found) != 3 or found[0] not in (1, 3) or found[1] != found[2] or found[1] not in SIDES:
        raise ValueError(
            f"shape must be (1 or 3, side, side) with a side of {SIDES}, got {tuple(shape)}"
        )
    return found


def doubling(shape: Shape) -> list[int]:
    """Published channel counts from the image inwards, one for each halving down to 4 x 4."""
    return [64 << stage for stage in range((shape[1] // 4).bit_length() - 1)]


def scaled(width: float, *counts: int) -> list[int]:
    """Channel counts times ``width``, at least 4 each."""
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return [max(4, round(width * count)) for count in counts]


def down(inputs: int, outputs: int, kernel: int = 5) -> list[nn.Module]:
    """A halving convolution, instance norm, leaky ReLU.

    Instance norm, not batch norm: the gradient penalty is per image.
    """
    norm = nn.InstanceNorm2d(outputs, affine=True)
    return [nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2), norm, nn.LeakyReLU(0.2)]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
