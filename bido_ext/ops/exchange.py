# SPDX-License-Identifier: Apache-2.0
"""What a step with a global batch moves between ranks: bytes and messages, by the shapes alone.

Each rank receives the rows of all others (all_gather): rows of the largest rank, since the others are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Rows and signature of a rank's batch, int64 each.
HEADER_BYTES = 16
LABEL_BYTES = 8
#: Row sums and products of hsic and cka are float64.
SUM_BYTES = 8


@dataclass(frozen=True)
class Exchange:
    """What one rank receives in a step; the backward moves nothing.

    Attributes:
        features: Bytes of the rows of the other ranks.
        sums: Bytes of row sums and products (hsic and cka).
        header: Bytes that tell the ranks' rows.
        messages: Collectives.
    """

    features: int
    sums: int
    header: int
    messages: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.features + self.sums + self.header


def exchange_of_step(
    rows: int, dims: Sequence[int], itemsize: int, measure: str, world_size: int
) -> Exchange:
    """What a BiDO step moves.

    Args:
        rows: Of the largest rank.
        dims: Widths of X, of every layer and of the targets; 0 stands for integer labels (int64).
        itemsize: Bytes of a feature.
        measure: "hsic", "nhsic", "coco" or "cka".
        world_size: Ranks.
    """
    if world_size == 1:
        return Exchange(0, 0, 0, 0)
    others = world_size - 1
    row_bytes = sum(d * itemsize if d else LABEL_BYTES for d in dims)
    sums = 0
    if measure in ("hsic", "cka"):
        # Two pairs per layer; cka has every variable with itself as well.
        pairs = 2 * (len(dims) - 2) + (len(dims) if measure == "cka" else 0)
        sums = others * SUM_BYTES * (len(dims) * rows + pairs)
    messages = 1 + len(dims) + (1 if sums else 0)
    return Exchange(others * rows * row_bytes, sums, others * HEADER_BYTES, messages)
