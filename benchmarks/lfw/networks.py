# SPDX-License-Identifier: Apache-2.0
"""Small networks for 64 x 64 faces: the classifier under attack, generator and critic."""

from __future__ import annotations

from torch import Tensor, nn

from bido_ext.lab.models.base import FeatureClassifier, conv_block

LATENT_DIM = 100
TAPS = ("layer1", "layer2", "layer3", "layer4", "layer5")


class SlimVGG(FeatureClassifier):
    """Five blocks convolution - batch norm - leaky ReLU - pool, 64 -> 2 pixels, then dropout."""

    layers = (*TAPS, "regularise")

    def __init__(self, num_classes: int, width: int = 16, dropout: float = 0.5) -> None:
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        super().__init__(4 * channels[-1], num_classes)
        for name, inputs, outputs in zip(TAPS, channels[:-1], channels[1:], strict=True):
            setattr(self, name, conv_block(inputs, outputs, 3, pad=1, pool=True))
        self.regularise = nn.Sequential(nn.Flatten(), nn.Dropout(dropout))


class Generator(nn.Module):
    """GMI's generator: latents (n, 100) -> images (n, 3, 64, 64) in [0, 1]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        first = 8 * width
        self.project = nn.Sequential(
            nn.Linear(LATENT_DIM, first * 16, bias=False), nn.BatchNorm1d(first * 16), nn.ReLU()
        )
        self.upsample = nn.Sequential(
            nn.Unflatten(1, (first, 4, 4)),
            *_up(first, first // 2),
            *_up(first // 2, first // 4),
            *_up(first // 4, width),
            nn.ConvTranspose2d(width, 3, 5, 2, 2, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.upsample(self.project(z))


class Critic(nn.Module):
    """GMI's critic: images (n, 3, 64, 64) -> scores (n,), higher for real ones."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2),
            nn.LeakyReLU(0.2),
            *_down(width, 2 * width),
            *_down(2 * width, 4 * width),
            *_down(4 * width, 8 * width),
            nn.Conv2d(8 * width, 1, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    norm = nn.InstanceNorm2d(outputs, affine=True)
    return [nn.Conv2d(inputs, outputs, 5, 2, 2), norm, nn.LeakyReLU(0.2)]
