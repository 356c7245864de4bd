# SPDX-License-Identifier: Apache-2.0
"""What the ring of a global batch takes beside gathering: when it is taken, its blocks and its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bido_ext.ops._plan_arguments import WorkspaceError
from bido_ext.ops.exchange import LABEL_BYTES

#: How features reach the other ranks: whole to all, or in blocks round a ring; "auto" takes the ring where
#: gathered features would not fit.
EXCHANGES = ("auto", "gather", "ring")
GIB = 1 << 30
#: Bound on the row panels of a rank where no workspace_bytes is given; ranks may share a machine's memory.
PANEL_BYTES = GIB


class RingBlocks(NamedTuple):
    """How a rank walks over its rows.

    Attributes:
        keep: Whether the first trip's Gram matrices are kept for the second.
        block: Rows of a block.
        bytes: Of Gram matrices and temporaries.
    """

    keep: bool
    block: int
    bytes: int


def ring_blocks(
    counts: Sequence[int], variables: int, element: int, workspace_bytes: int | None, whole: bool
) -> RingBlocks:
    """The same on all ranks, from what all of them know: the largest rank decides.

    Args:
        counts: Rows of each rank.
        variables: Input, layers and targets.
        element: Bytes of a number of a Gram matrix.
        whole: Whether whole Gram matrices are gathered in any case (nhsic, coco).

    Raises:
        WorkspaceError: Not even a block of one row fits into workspace_bytes.
    """
    n, most = sum(counts), max(counts)
    # The float64 weights of the gradient with two temporaries.
    kept, temporaries = variables * n * element, 3 * 8 * most
    budget = PANEL_BYTES if workspace_bytes is None else workspace_bytes
    if whole or most * (kept + temporaries) <= budget:
        return RingBlocks(True, most, most * (kept + temporaries))
    per_row = variables * most * element + temporaries
    if budget < per_row and workspace_bytes is not None:
        raise WorkspaceError(
            f"one row of the Gram matrices against {most:,} samples takes {per_row:,} bytes, more than "
            f"workspace_bytes={workspace_bytes:,}."
        )
    block = max(1, min(budget // per_row, most))
    return RingBlocks(False, block, block * per_row)


def gathered_bytes(n: int, widths: Sequence[tuple[int, int]]) -> int:
    """Bytes of the rows of all ranks; widths: (columns, bytes of a number) of each variable, columns 0 for
    labels."""
    return n * sum(d * itemsize if d else LABEL_BYTES for d, itemsize in widths)


def passing_bytes(counts: Sequence[int], dims: Sequence[int], itemsize: int, element: int) -> int:
    """Bytes of features on a rank beyond its own: two blocks of other ranks (with two ranks, one), the targets
    of all ranks, and one variable's own and other block without its mean."""
    most, moving = max(counts), dims[:-1]
    buffers = min(2, len(counts) - 1) * most * sum(moving) * itemsize
    targets = gathered_bytes(sum(counts), [(dims[-1], itemsize)])
    return buffers + targets + 2 * most * max(moving) * element
