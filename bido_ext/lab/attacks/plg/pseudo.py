# SPDX-License-Identifier: Apache-2.0
"""PLG-MI's pseudo-labels: for each class the public images that the target is surest of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.attacks.target import at_least_float32
from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.augment import AffineRange, random_affine

BATCH = 256


class Pool:
    """Public images, and ``views`` random versions of each where they are augmented at all.

    A version is drawn again rather than kept: all of them would fill the memory.
    """

    def __init__(self, public: ImageSet, ranges: AffineRange | None, views: int, seed: int) -> None:
        self.public, self.ranges, self.seed = public, ranges, seed
        self.views = 1 if ranges is None else 1 + views

    def __len__(self) -> int:
        return self.views * len(self.public)

    def batches(self) -> list[tuple[int, Tensor]]:
        """(view, positions in ``public``) of every batch, in the order of the pool."""
        parts = torch.arange(len(self.public)).split(BATCH)
        return [(view, part) for view in range(self.views) for part in parts]

    def images(self, view: int, part: Tensor) -> Tensor:
        """One batch, on the CPU; view 0 is the image itself."""
        images = self.public.batch(part)
        if not view or self.ranges is None:
            return images
        seed = stream_seed(self.seed, "plg pool", view, int(part[0]))
        return random_affine(images, self.ranges, torch.Generator().manual_seed(seed))


@torch.no_grad()
def pseudo_labelled(
    pool: Pool, target: Callable[[Tensor], Tensor], count: int, device: torch.device
) -> ImageSet:
    """The ``count`` images of each class with the highest probability of it; one may serve several.

    Returns:
        Images as bytes, as an image file would keep them, and labels; class after class.

    Raises:
        ValueError: fewer images than ``count``.
    """
    if count > len(pool):
        raise ValueError(f"top_n must be at most the {len(pool)} public images, got {count}")
    scores = torch.cat(
        [
            at_least_float32(target(pool.images(*batch).to(device))).softmax(1).cpu()
            for batch in pool.batches()
        ]
    )
    best = scores.topk(count, dim=0).indices.T  # [classes, count], positions in the pool
    chosen = best.flatten()
    kept = torch.empty(len(chosen), *pool.public.shape, dtype=torch.uint8)
    first = 0
    for view, part in pool.batches():
        here = (chosen >= first) & (chosen < first + len(part))
        if bool(here.any()):
            images = pool.images(view, part)[chosen[here] - first]
            kept[here] = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        first += len(part)
    return ImageSet(kept, torch.arange(len(best)).repeat_interleave(count))
