# SPDX-License-Identifier: Apache-2.0
"""Batches of a few images each of a few identities, as BiDO's face experiments draw them.

With plainly shuffled batches of 64 out of 1000 identities hardly a label repeats, and the
dependence on the labels is another quantity: weights do not carry over between the two ways.
"""

from __future__ import annotations

import torch
from torch import Tensor


class IdentityBatches:
    """Draws batches of ``per_identity`` images of ``batch_size / per_identity`` identities.

    In an epoch the images of an identity are shuffled and cut into groups, an incomplete group is
    left out, and batches are drawn while enough identities have a group left. An identity with too
    few images for one group gives one with repetitions. Only labels are read, never an image.

    Args:
        labels: (n,) int64.
        batch_size: a multiple of ``per_identity``.
        per_identity: images of an identity in a batch.

    Raises:
        ValueError: sizes that do not fit together, or too few identities for a batch.
    """

    def __init__(self, labels: Tensor, batch_size: int = 64, per_identity: int = 4) -> None:
        if per_identity < 1 or batch_size % per_identity:
            raise ValueError(
                f"batch_size must be a multiple of per_identity={per_identity}, got {batch_size}"
            )
        self.identities, self.per_identity = batch_size // per_identity, per_identity
        self._rows = [(labels == label).nonzero().flatten() for label in labels.unique()]
        if len(self._rows) < self.identities:
            raise ValueError(
                f"batch_size={batch_size} with per_identity={per_identity} takes "
                f"{self.identities} identities, the training set has {len(self._rows)}"
            )

    def __len__(self) -> int:
        """The most batches an epoch can have; the draw decides whether a few are left out."""
        return sum(max(1, len(rows) // self.per_identity) for rows in self._rows) // self.identities

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """The batches of one epoch: positions in ``labels``."""
        left = [self._groups(rows, generator) for rows in self._rows]
        batches = []
        while len(ready := [groups for groups in left if groups]) >= self.identities:
            chosen = torch.randperm(len(ready), generator=generator)[: self.identities]
            batches.append(torch.cat([ready[i].pop() for i in chosen.tolist()]))
        return batches

    def _groups(self, rows: Tensor, generator: torch.Generator) -> list[Tensor]:
        size = self.per_identity
        if len(rows) < size:
            return [rows[torch.randint(len(rows), (size,), generator=generator)]]
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        return list(shuffled[: len(rows) // size * size].split(size))
