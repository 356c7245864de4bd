# SPDX-License-Identifier: Apache-2.0
"""Random affine maps of image batches, one map per image.

torchvision's random transforms draw one map for a whole batch; drawn image by image they cost more
than the networks here. ``affine_grid`` and ``grid_sample`` do the batch in one call.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AffineRange:
    """What ``random_affine`` draws from, uniformly.

    Attributes:
        quarter_turns: whether to turn by a random multiple of 90 degrees first.
        rotation: largest further turn, radians, either way.
        shear: largest shear (tangent of the angle), either way.
        log_scale: largest logarithm of the magnification per axis, either way.
        shift: largest translation as a share of the image side, either way.
        flip: probability of mirroring left-right.
    """

    quarter_turns: bool = False
    rotation: float = 0.0
    shear: float = 0.0
    log_scale: float = 0.0
    shift: float = 0.0
    flip: float = 0.0


# The attacker knows that private images are pen strokes, not which: turned, mirrored and sheared
# public digits give the generator strokes that 5-9 as written do not have.
PUBLIC_DIGITS = AffineRange(
    quarter_turns=True, rotation=0.5, shear=0.3, log_scale=0.25, shift=0.0, flip=0.5
)
HANDWRITING = AffineRange(rotation=0.2, shear=0.2, log_scale=0.15, shift=0.06)
AUGMENTATIONS: dict[str, AffineRange | None] = {
    "none": None,
    "flip": AffineRange(flip=0.5),
    "handwriting": HANDWRITING,
    "public-digits": PUBLIC_DIGITS,
}


def augmentation(name: str) -> AffineRange | None:
    """Look up ``AUGMENTATIONS``; an unknown name raises ``ValueError``."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return AUGMENTATIONS[name]


def random_affine(images: Tensor, ranges: AffineRange, generator: torch.Generator) -> Tensor:
    """Map each image of ``images`` (n, channels, height, width) by its own random affine map.

    Pixels from outside count as 0 (black). ``generator`` is a CPU generator, so the draws are the
    same on every device.
    """
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (2.0 * torch.rand(n, generator=generator) - 1.0) * limit

    angle = uniform(ranges.rotation)
    turns = torch.randint(0, 4, (n,), generator=generator)
    if ranges.quarter_turns:
        angle = angle + turns * (math.pi / 2)
    mirror = 1.0 - 2.0 * (torch.rand(n, generator=generator) < ranges.flip).float()
    shear = uniform(ranges.shear)
    scale_x, scale_y = (uniform(ranges.log_scale).exp() for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    # rows of rotation @ [[mirror * scale_x, shear], [0, scale_y]]; output to input coordinates
    rows = [cos * mirror * scale_x, cos * shear - sin * scale_y, 2 * uniform(ranges.shift)]
    rows += [sin * mirror * scale_x, sin * shear + cos * scale_y, 2 * uniform(ranges.shift)]
    theta = torch.stack(rows, 1).view(n, 2, 3).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
