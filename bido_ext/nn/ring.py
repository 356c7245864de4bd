# SPDX-License-Identifier: Apache-2.0
"""Features of all ranks without gathering them: blocks of rows pass round a ring of ranks.

In step s a rank holds the block of rank - s. It passes it on to the next rank and, while that and the block
that comes from the rank before are under way, multiplies it. Two blocks beside the rank's own are alive (one
with two ranks), whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from bido_ext.nn.shards import GroupHandle, Shards


def pass_round(
    handle: GroupHandle, shards: Shards, own: Sequence[Tensor]
) -> Iterator[tuple[int, list[Tensor]]]:
    """Every rank's block once, the own one first; all ranks have to take the trip to its end.

    Args:
        own: This rank's rows of some variables, (n_r, d_v) each, on one device; not to be changed meanwhile.

    Yields:
        A rank and its rows, (n_q, d_v) each, valid until the next is asked for. Ranks without rows are
        left out.
    """
    last = shards.world_size - 1
    held = [t.detach().contiguous() for t in own]
    buffers: list[list[Tensor]] = []
    for step in range(last + 1):
        owner = (shards.rank - step) % shards.world_size
        coming: list[Tensor] = []
        pending = []
        if step < last:
            if len(buffers) < 2:
                buffers.append([t.new_empty((shards.most, *t.shape[1:])) for t in own])
            count = shards.counts[owner - 1]
            coming = [t[:count] for t in buffers[step % 2]]
            pending = handle.pass_on(held, coming)
        if shards.counts[owner]:
            yield owner, held
        for work in pending:
            work.wait()
        held = coming
