# SPDX-License-Identifier: Apache-2.0
"""PPA's image transforms, for a batch in which every image has a crop of its own.

torchvision's RandomResizedCrop draws one crop for a whole batch; here each image's crop comes from
numbers that belong to its row, so that no result depends on what shares a batch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 5  # uniform numbers for each crop: area, aspect ratio, two positions, flip


@dataclass(frozen=True)
class CropRange:
    """What a random resized crop draws from.

    Attributes:
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height; its logarithm is uniform.
        flip: probability of mirroring left-right.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0


OPTIMISATION = CropRange(scale=(0.9, 1.0))
SELECTION = CropRange(scale=(0.5, 0.9), ratio=(0.8, 1.2), flip=0.5)


def resized_crop(images: Tensor, ranges: CropRange, draws: Tensor) -> Tensor:
    """Crop each image (n, channels, side, side) at random and bring it back to its size.

    Args:
        draws: (n, ``DRAWS``) uniform numbers in [0, 1).
    """
    area, aspect, left, top, mirror = draws.to(images).unbind(1)
    area = torch.lerp(*_ends(area, *ranges.scale), area)
    log_ratio = torch.lerp(*_ends(area, *map(math.log, ranges.ratio)), aspect)
    # Shares of the sides; a crop never reaches outside.
    width = (area * log_ratio.exp()).sqrt().clamp_max(1.0)
    height = (area / log_ratio.exp()).sqrt().clamp_max(1.0)
    # Centres, in coordinates that run from -1 to 1.
    x, y = (2 * left - 1) * (1 - width), (2 * top - 1) * (1 - height)
    sign = 1.0 - 2.0 * (mirror < ranges.flip).to(images)
    zero = torch.zeros_like(width)
    theta = torch.stack([sign * width, zero, x, zero, height, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def fit(images: Tensor, centre: int, side: int) -> Tensor:
    """The middle ``centre`` x ``centre`` pixels (0: all), resized to ``side`` x ``side``."""
    if centre:
        height, width = images.shape[2:]
        top, left = (height - centre) // 2, (width - centre) // 2
        images = images[:, :, top : top + centre, left : left + centre]
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images


def _ends(like: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(like, low), torch.full_like(like, high)
