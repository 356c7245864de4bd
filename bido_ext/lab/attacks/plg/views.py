# SPDX-License-Identifier: Apache-2.0
"""What PLG-MI shows the target of an image: cropped, turned, mirrored, of another contrast.

Every image has a view of its own, from numbers that belong to its row.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 7  # uniform numbers for each view: area, left, top, mirror, angle, brightness, contrast
AREA, ANGLE, JITTER = 0.8, math.radians(5), 0.2  # published


def view(images: Tensor, draws: Tensor) -> Tensor:
    """One view of each image (n, channels, side, side) in [0, 1].

    A square crop of 0.8 to 1 of the area, turned by up to 5 degrees, colour images mirrored with
    probability 1/2 (grey ones hold characters, which mirroring makes others), brightness and contrast
    times 0.8 to 1.2.

    Args:
        draws: (n, ``DRAWS``) uniform numbers in [0, 1).
    """
    area, left, top, mirror, angle, brightness, contrast = draws.to(images).unbind(1)
    size = (AREA + (1 - AREA) * area).sqrt()
    x, y = (2 * left - 1) * (1 - size), (2 * top - 1) * (1 - size)
    flips = (mirror < 0.5).to(images) if images.shape[1] == 3 else torch.zeros_like(mirror)
    sign, turned = 1 - 2 * flips, (2 * angle - 1) * ANGLE
    cos, sin = size * turned.cos(), size * turned.sin()
    theta = torch.stack([sign * cos, -sin, x, sign * sin, cos, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    seen = seen * _factor(brightness)
    mean = seen.mean((1, 2, 3), keepdim=True)
    return (mean + (seen - mean) * _factor(contrast)).clamp(0, 1)


def _factor(draw: Tensor) -> Tensor:
    return (1 - JITTER + 2 * JITTER * draw)[:, None, None, None]
