# SPDX-License-Identifier: Apache-2.0
"""A small U-Net: noisy images and how noisy they are -> the direction between image and noise.

Normalised group by group within an image, so that no image has a part in another's.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.attacks.networks import DIGITS, check_shape, scaled

CHANNELS = (64, 128, 128)
WAVES = 16  # sines and as many cosines of the time


class UNet(nn.Module):
    """Noisy images (n, *shape) and times (n,) in [0, 1] -> (n, *shape).

    Three resolutions, each half the one before, two residual blocks on each way; self-attention at
    the smallest.

    Args:
        width: scales 64, 128, 128 channels.
        shape: (channels, side, side) of the images.
        patch: squares of so many pixels a side are one place of the network, which is then so many
            times smaller; 1, 2 or 4.

    Raises:
        ValueError: bad width, shape or patch.
    """

    def __init__(self, width: float = 1.0, shape: Sequence[int] = DIGITS, patch: int = 1) -> None:
        super().__init__()
        self.shape, self.patch = check_shape(shape), patch
        if patch not in (1, 2, 4) or self.shape[1] < 8 * patch:
            raise ValueError(
                f"patch must be 1, 2 or 4 and at most an eighth of the side, got {patch} for "
                f"{self.shape[1]} pixels"
            )
        pixels, channels = self.shape[0] * patch**2, scaled(width, *CHANNELS)
        told = 4 * channels[0]
        self.time = nn.Sequential(nn.Linear(2 * WAVES, told), nn.SiLU(), nn.Linear(told, told))
        self.first = nn.Conv2d(pixels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = channels[0]
        for wide in channels:
            self.down.append(_Block(before, wide, told))
            before = wide
        self.middle = _Attention(before)
        for wide in reversed(channels):
            self.up.append(_Block(before + wide, wide, told))
            before = wide
        self.last = nn.Sequential(_norm(before), nn.SiLU(), _zero(nn.Conv2d(before, pixels, 1)))

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        rates = torch.logspace(0, 3, WAVES, device=x.device, dtype=x.dtype)
        angles = times[:, None] * rates
        told = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h, kept = self.first(F.pixel_unshuffle(x, self.patch)), []
        for number, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if number else h, told)
            kept.append(h)
        h = self.middle(h)
        for number, block in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0) if number else h
            h = block(torch.cat([h, kept.pop()], 1), told)
        return F.pixel_shuffle(self.last(h), self.patch)


class _Block(nn.Module):
    """(norm, SiLU, convolution) twice, told the time in between, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.before = nn.Sequential(
            _norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.told = nn.Linear(told, outputs)
        self.after = nn.Sequential(
            _norm(outputs), nn.SiLU(), _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.before(x) + self.told(told)[:, :, None, None]
        return self.after(h) + self.shortcut(x)


class _Attention(nn.Module):
    """Every place looks at every other one; one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.asked = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.asked(self.norm(x)).flatten(2).mT.chunk(3, 2)
        seen = F.scaled_dot_product_attention(*parts)
        return x + self.out(seen.mT.view_as(x))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """A residual branch that starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
