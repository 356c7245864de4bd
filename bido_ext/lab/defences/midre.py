# SPDX-License-Identifier: Apache-2.0
"""MIDRE: every training image loses a square (Tran et al., "Random Erasing vs. Model
Inversion", TMLR 2025).

The square holds a share of the area drawn from [``least``, ``most``], lies anywhere in the image,
and is filled with the mean of ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rule import DefenceSpec, Rule

_FILL = (0.485, 0.456, 0.406)


class Midre(Rule):
    """Random erasing of every image of every batch."""

    def __init__(self, weights: dict[str, float], taps: tuple[str, ...]) -> None:
        super().__init__(weights, taps)
        if not 0 < weights["least"] <= weights["most"] < 1:
            raise ValueError(
                f"least and most must satisfy 0 < least <= most < 1, got {weights['least']:g} and "
                f"{weights['most']:g}"
            )

    def images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See ``Rule``."""
        n, channels, height, width = x.shape
        draws = torch.rand(3, n, generator=generator).to(x.device)
        least, most = self.weights["least"], self.weights["most"]
        area = (least + (most - least) * draws[0]) * height * width
        side = area.sqrt().round().clamp(1, min(height, width))
        top = (draws[1] * (height - side + 1)).floor()
        left = (draws[2] * (width - side + 1)).floor()
        rows = torch.arange(height, device=x.device).view(1, -1, 1) - top.view(-1, 1, 1)
        columns = torch.arange(width, device=x.device).view(1, 1, -1) - left.view(-1, 1, 1)
        length = side.view(-1, 1, 1)
        inside = (rows >= 0) & (rows < length) & (columns >= 0) & (columns < length)
        fill = torch.tensor(_FILL, device=x.device, dtype=x.dtype)
        fill = fill if channels == 3 else fill.mean().expand(channels)
        return torch.where(inside[:, None], fill.view(1, -1, 1, 1), x)


SPECS = (
    DefenceSpec(
        "midre",
        {"least": 0.1, "most": 0.4},
        "MIDRE: random erasing of a share of every training image (Tran et al., TMLR 2025)",
        "MIDRE",
        Midre,
        per_image=True,
    ),
)
