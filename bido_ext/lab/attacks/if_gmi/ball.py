# SPDX-License-Identifier: Apache-2.0
"""Projections onto the balls that IF-GMI's searches stay in."""

import torch
from torch import Tensor


def into_ball(x: Tensor, centre: Tensor, radius: float, ball: str) -> Tensor:
    """The nearest point (in the Euclidean distance) of each row's ball.

    Args:
        x: (n, ...).
        centre: of the same shape.
        radius: 0: no bound.
        ball: "l1" or "l2".
    """
    if not radius:
        return x
    moved = (x - centre).flatten(1)
    kept = _l1(moved, radius) if ball == "l1" else _l2(moved, radius)
    # What lies inside stays as it is, to the bit.
    outside = torch.linalg.vector_norm(moved, int(ball[1]), dim=1, keepdim=True) > radius
    return torch.where(outside.view(-1, *[1] * (x.dim() - 1)), centre + kept.view_as(x), x)


def _l2(moved: Tensor, radius: float) -> Tensor:
    return moved * (radius / moved.norm(dim=1, keepdim=True).clamp_min(radius))


def _l1(moved: Tensor, radius: float) -> Tensor:
    """Every coordinate shrinks by the same threshold, down to 0 (Duchi et al., ICML 2008)."""
    size = moved.abs()
    counts = torch.arange(1, size.shape[1] + 1, device=size.device)
    # The threshold that brings the k largest alone to the radius; the largest of them serves all.
    least = (size.sort(1, descending=True).values.cumsum(1) - radius) / counts
    return moved.sign() * (size - least.amax(1, keepdim=True).clamp_min(0)).relu()
