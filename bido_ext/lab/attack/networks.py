# SPDX-License-Identifier: Apache-2.0
"""GMI's generator and critic (Zhang et al., CVPR 2020), in the sizes of BiDO's MNIST runs."""

from torch import Tensor, nn

LATENT_DIM = 100


class Generator(nn.Module):
    """Latents (n, 100) -> images (n, 1, 32, 32) in [0, 1]; ``width`` scales all channel counts."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = _channels(width, 256, 128, 64)
        self.project = nn.Sequential(
            nn.Linear(LATENT_DIM, first * 16, bias=False), nn.BatchNorm1d(first * 16), nn.ReLU()
        )
        self.upsample = nn.Sequential(
            nn.Unflatten(1, (first, 4, 4)),
            *_up(first, second),
            *_up(second, third),
            nn.ConvTranspose2d(third, 1, 5, 2, 2, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.upsample(self.project(z))


class Critic(nn.Module):
    """Images (n, 1, 32, 32) -> scores (n,), higher for real ones; ``width`` scales the channels."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = _channels(width, 64, 128, 256)
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 5, 2, 2),
            nn.LeakyReLU(0.2),
            *_down(first, second),
            *_down(second, third),
            nn.Conv2d(third, 1, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


def _channels(width: float, *counts: int) -> list[int]:
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return [max(4, round(width * count)) for count in counts]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    # Instance norm, not batch norm: the gradient penalty is per image.
    norm = nn.InstanceNorm2d(outputs, affine=True)
    return [nn.Conv2d(inputs, outputs, 5, 2, 2), norm, nn.LeakyReLU(0.2)]
