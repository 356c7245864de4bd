# SPDX-License-Identifier: Apache-2.0
"""What a step with a global batch moves between ranks: bytes and messages, by the shapes alone.

Gathering, each rank receives the rows of all others at once: rows of the largest rank, since the others are
padded. In the ring it receives them one rank after the other, unpadded, and where a gradient is wanted a
second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Rows, signature, wanted gradients and allowed bytes of a rank, int64 each.
HEADER_BYTES = 32
LABEL_BYTES = 8
#: Row sums and products of hsic and cka are float64.
SUM_BYTES = 8


@dataclass(frozen=True)
class Exchange:
    """What one rank receives in a step; the backward moves nothing.

    Attributes:
        features: Bytes of the rows of the other ranks.
        sums: Bytes of row sums and products (hsic and cka). The unbiased estimators in the ring add 16 for
            every variable but the targets, which are not counted here.
        header: Bytes that tell the ranks' rows.
        messages: Collectives, and tensors received from the rank before in the ring.
        grams: Bytes of rows of Gram matrices (nhsic and coco in the ring).
    """

    features: int
    sums: int
    header: int
    messages: int
    grams: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.features + self.sums + self.header + self.grams


def exchange_of_step(
    rows: int, dims: Sequence[int], itemsize: int, measure: str, world_size: int
) -> Exchange:
    """What a BiDO step moves where features are gathered.

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
    sums = others * _sum_bytes(rows, len(dims), measure)
    messages = 1 + len(dims) + (1 if sums else 0)
    return Exchange(others * rows * row_bytes, sums, others * HEADER_BYTES, messages)


def exchange_of_ring(
    counts: Sequence[int],
    rank: int,
    dims: Sequence[int],
    itemsize: int,
    element: int,
    measure: str,
    keep: bool = True,
    gradient: bool = True,
) -> Exchange:
    """What a BiDO step moves where features pass round the ring.

    Args:
        counts: Rows of each rank.
        rank: Whose bytes.
        dims: Widths of X, of every layer and of the targets; 0 stands for integer labels (int64).
        itemsize: Bytes of a feature.
        element: Bytes of a number of a Gram matrix.
        measure: "hsic", "nhsic", "coco" or "cka".
        keep: Whether Gram matrices are kept for the second trip; else X passes by once more, too.
        gradient: Whether any rank wants that of the layers.
    """
    others, n, most = len(counts) - 1, sum(counts), max(counts)
    if not others:
        return Exchange(0, 0, 0, 0)
    first = list(dims[:-1])
    second = (first[1:] if keep else first) if gradient else []
    trips = (n - counts[rank]) * itemsize * (sum(first) + sum(second))
    targets = others * most * (dims[-1] * itemsize or LABEL_BYTES)
    sums = others * _sum_bytes(most, len(dims), measure)
    senders = sum(1 for r, count in enumerate(counts) if count and r != rank)
    # Header and targets; row sums or whole Gram matrices.
    messages = 2 + senders * (len(first) + len(second)) + (1 if sums else len(first))
    grams = 0 if sums else others * most * n * element * len(first)
    return Exchange(trips + targets, sums, others * HEADER_BYTES, messages, grams)


def _sum_bytes(rows: int, variables: int, measure: str) -> int:
    """Of row sums and products from one rank, by hsic and cka."""
    if measure not in ("hsic", "cka"):
        return 0
    # Two pairs per layer; cka has every variable with itself as well.
    pairs = 2 * (variables - 2) + (variables if measure == "cka" else 0)
    return SUM_BYTES * (variables * rows + pairs)
