# SPDX-License-Identifier: Apache-2.0
"""PPA's two selections, both by the target's own confidence; no other classifier takes part."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.target import at_least_float32

from .transforms import DRAWS, SELECTION, resized_crop

Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def candidate_scores(images: Tensor, target: Network) -> Tensor:
    """The target's probabilities (n, classes), averaged over each image and its mirror image."""
    both = [at_least_float32(target(seen)).softmax(1) for seen in (images, images.flip(3))]
    return (both[0] + both[1]) / 2


def best_candidates(scores: Tensor, classes: Sequence[int], kept: int) -> Tensor:
    """For each class the ``kept`` candidates that score best: row numbers (kept, classes).

    A candidate may serve several classes.  They keep the order in which they were drawn, so that the
    first restarts are not those that start best.
    """
    return scores[:, list(classes)].topk(kept, dim=0).indices.sort(dim=0).values


@torch.no_grad()
def robust_confidence(images: Tensor, rows: Rows, target: Network, transforms: int) -> Tensor:
    """The target's mean confidence in the wanted class over random crops of each image, (n,)."""
    labels = rows.wanted(images.device)[:, None]
    images = at_least_float32(images)
    total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    for i in range(transforms):
        seen = resized_crop(images, SELECTION, rows.uniform("ppa selection", i, DRAWS))
        confidence = at_least_float32(target(seen)).softmax(1)
        total += confidence.gather(1, labels).squeeze(1)
    return total / transforms


def best_rows(confidence: Tensor, classes: int, selected: int) -> Tensor:
    """Row numbers of each class's most confident rows: (selected * classes,), class by class within.

    They keep the order in which they were found, so that the first ones are not the best ones.

    Args:
        confidence: (rows,), class after class within a restart.
    """
    table = confidence.unflatten(0, (-1, classes))  # [restarts, classes]
    restarts = table.topk(selected, dim=0).indices.sort(dim=0).values
    return (restarts * classes + torch.arange(classes, device=confidence.device)).flatten()
