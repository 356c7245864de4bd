# SPDX-License-Identifier: Apache-2.0
"""PLG-MI's networks: residual generator with conditional batch norm, projection discriminator.

After Miyato and Koyama, "cGANs with Projection Discriminator" (ICLR 2018). At 64 pixels the
generator has the published sizes, other sides have a block less or more; the discriminator halves
down to 4 pixels.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from bido_ext.lab.attacks.networks import DIGITS, Shape, check_shape, doubling, scaled

LATENT_DIM = 128


class ConditionalNorm(nn.Module):
    """Batch norm with a scale and a shift for each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """``x`` (n, channels, height, width) normalised, by its labels (n,)."""
        scale, shift = self.scale(labels)[..., None, None], self.shift(labels)[..., None, None]
        return self.norm(x) * scale + shift


class _Up(nn.Module):
    """Twice the size: (norm, ReLU, convolution) twice, beside a 1 x 1 shortcut."""

    def __init__(self, inputs: int, outputs: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, num_classes)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = ConditionalNorm(outputs, num_classes)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = F.interpolate(self.norm1(x, labels).relu(), scale_factor=2)
        h = self.conv2(self.norm2(self.conv1(h), labels).relu())
        return h + F.interpolate(self.shortcut(x), scale_factor=2)


class Down(nn.Module):
    """Half the size, spectrally normalised; the first block has no ReLU on the pixels."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv1 = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x if self.first else x.relu()).relu())
        # A 1 x 1 convolution and a mean over pixels commute: the smaller image first.
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))


def halving(shape: Shape, width: float) -> tuple[nn.Sequential, int]:
    """``Down`` blocks from images (n, *shape) to 4 x 4 pixels, and how many channels these have."""
    channels = scaled(width, *doubling(shape))
    pairs = itertools.pairwise([shape[0], *channels])
    blocks = [Down(inputs, outputs, first=not i) for i, (inputs, outputs) in enumerate(pairs)]
    return nn.Sequential(*blocks), channels[-1]


class ConditionalGenerator(nn.Module):
    """Latents (n, 128) and labels (n,) -> images (n, *shape) in [0, 1].

    Args:
        num_classes: of the target.
        width: scales all channel counts; the published last block has 64.
        shape: (channels, side, side) of the images.

    Raises:
        ValueError: bad width or shape.
    """

    def __init__(self, num_classes: int, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape, self.num_classes = check_shape(shape), num_classes
        counts = doubling(self.shape)
        channels = scaled(width, 2 * counts[-1], *reversed(counts))
        self.project = nn.Linear(LATENT_DIM, channels[0] * 16)
        self.blocks = nn.ModuleList(
            _Up(inputs, outputs, num_classes) for inputs, outputs in itertools.pairwise(channels)
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.pixels = nn.Conv2d(channels[-1], self.shape[0], 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.project(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            h = block(h, labels)
        return (self.pixels(self.norm(h).relu()).tanh() + 1) / 2


class ProjectionDiscriminator(nn.Module):
    """Images (n, *shape) and labels (n,) -> scores (n,); arguments as of ``ConditionalGenerator``."""

    def __init__(self, num_classes: int, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape, self.num_classes = check_shape(shape), num_classes
        self.blocks, features = halving(self.shape, width)
        self.score = spectral_norm(nn.Linear(features, 1))
        self.projection = spectral_norm(nn.Embedding(num_classes, features))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h: Tensor = self.blocks(x * 2 - 1).relu().sum((2, 3))
        return self.score(h).squeeze(1) + torch.linalg.vecdot(self.projection(labels), h)
