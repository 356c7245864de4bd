# SPDX-License-Identifier: Apache-2.0
"""A batch spread over ranks: who owns which rows, and how the rows of all are brought together.

A step takes one message of 32 bytes that tells every rank's rows (and that all ranks bring the same kind of
batch: what would hang or mix up rows becomes an error on all of them), and one message per variable. Ranks
with fewer rows than the largest are padded, since all_gather moves equal parts. Or blocks of rows pass round
a ring (ring.py), unpadded.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

_REFUSED = -1
#: Bits of a mask of variables that fits an int64; the last one stands for all further variables.
_MASK_BITS = 63


@dataclass(frozen=True)
class Shards:
    """Rows of the global batch by rank, in rank order.

    Attributes:
        counts: Rows of each rank.
        rank: Of this process within the group.
        wanted: Variables whose gradient some rank wants; others may be among them beyond the 62nd.
        allowed_bytes: What the rank with the least memory allows the gathered features to take.
    """

    counts: tuple[int, ...]
    rank: int
    wanted: frozenset[int] = frozenset()
    allowed_bytes: int = 0

    @property
    def n(self) -> int:
        """Rows of the global batch."""
        return sum(self.counts)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.counts)

    @property
    def most(self) -> int:
        """Rows of the largest rank, to which the others are padded."""
        return max(self.counts)

    @property
    def own(self) -> slice:
        """This rank's rows of the global batch."""
        return self.rows_of(self.rank)

    def rows_of(self, rank: int) -> slice:
        """Some rank's rows of the global batch."""
        start = sum(self.counts[:rank])
        return slice(start, start + self.counts[rank])

    @property
    def even(self) -> bool:
        """Whether all ranks have as many rows."""
        return min(self.counts) == self.most


class GroupHandle:
    """A process group as an attribute of a module: copies of the module share it, no copy is made of it.

    Args:
        group: A ProcessGroup of torch.distributed, or a DeviceMesh of one dimension.

    Raises:
        TypeError: group is something else.
        ValueError: The mesh has several dimensions, or this process is not part of the group.
        RuntimeError: This PyTorch has no torch.distributed.
    """

    def __init__(self, group: object) -> None:
        if not dist.is_available():
            raise RuntimeError("process_group needs a PyTorch built with torch.distributed.")
        if isinstance(group, DeviceMesh):
            if group.ndim != 1:
                raise ValueError(
                    f"process_group is a DeviceMesh of {group.ndim} dimensions: pick the one over which "
                    'samples are spread, as in mesh["dp"].'
                )
            group = group.get_group()
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                "process_group must be a torch.distributed ProcessGroup or a DeviceMesh, got "
                f"{type(group).__name__}: init_process_group first, then for example dist.group.WORLD."
            )
        self.group = group
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not part of process_group.")

    @property
    def device(self) -> torch.device:
        """Where a message can start from that holds nothing of the batch."""
        if "nccl" in self._backends("cuda"):
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def _backends(self, device_type: str) -> str:
        """What serves a kind of device: of "cpu:gloo,cuda:nccl" its part, of "gloo" all of it.

        A group made without naming a backend ("undefined") takes nccl for CUDA devices.
        """
        named = str(dist.get_backend(self.group))
        parts = dict(part.split(":", 1) for part in named.split(",") if ":" in part)
        if named == "undefined":
            return "nccl" if device_type == "cuda" and torch.cuda.is_available() else "gloo"
        return parts.get(device_type, "" if parts else named)

    def all_gather(self, output: Tensor, part: Tensor, wait: bool = True) -> Any:
        """Fills the flat ``output`` with the flat ``part`` of every rank, in rank order."""
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return gather(output, part, group=self.group, async_op=not wait)

    def pass_on(self, outgoing: Sequence[Tensor], coming: Sequence[Tensor]) -> list[Any]:
        """Posts ``outgoing`` to the next rank and ``coming``, to be filled, from the rank before.

        Until all that is returned was waited for, ``outgoing`` may be read and ``coming`` not be touched.
        Tensors without elements are not sent; both ends know.
        """
        ahead, behind = (self.rank + 1) % self.world_size, (self.rank - 1) % self.world_size
        posts: list[tuple[Any, Tensor, int, int]] = []
        posts += [(dist.isend, t, ahead, tag) for tag, t in enumerate(outgoing)]
        posts += [(dist.irecv, t, behind, tag) for tag, t in enumerate(coming)]
        operations = [
            # As bytes, so that no backend's list of dtypes matters.
            dist.P2POp(
                post, t.view(-1).view(torch.uint8), group=self.group, tag=tag, group_peer=peer
            )
            for post, t, peer, tag in posts
            if t.numel()
        ]
        return dist.batch_isend_irecv(operations) if operations else []

    def can_pass_on(self, device: torch.device) -> bool:
        """Whether the backend sends from one rank to another on this device."""
        return device.type != "cuda" or self._backends("cuda") != "gloo"

    @property
    def is_world(self) -> bool:
        """Whether it is the group of all ranks."""
        return self.group is dist.group.WORLD

    def __deepcopy__(self, memo: object) -> GroupHandle:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a loss with a process_group of some ranks cannot be pickled or saved, because a group lives in "
            'its process: save its settings instead, or give process_group="world", which is looked up again.'
        )


def world() -> GroupHandle:
    """All ranks, whose group exists only once init_process_group was called.

    Raises:
        RuntimeError: It was not called yet.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            'process_group="world" needs torch.distributed.init_process_group before the first step.'
        )
    return GroupHandle(dist.group.WORLD)


def agree(
    handle: GroupHandle,
    own: Sequence[Tensor],
    settings: str,
    refusal: Exception | None,
    wanted: Sequence[bool] = (),
    allowed_bytes: int = 0,
    device: torch.device | None = None,
) -> Shards:
    """Every rank learns the rows of all, or all refuse together.

    Args:
        own: This rank's variables, (n_r, ...) each; n_r may be 0.
        settings: What must be the same everywhere, in words.
        refusal: What this rank found wrong with its batch. It is raised after the others were told, so
            that none of them waits for a message that never comes.
        wanted: Whether this rank wants the gradient of each variable.
        allowed_bytes: What gathered features may take on this rank.
        device: Of the batch, if anything is known of a refused one: the message has to take the same way
            as those of the other ranks.

    Raises:
        ValueError: The ranks' batches do not belong together, a rank refused its own, or all of them
            together hold no sample.
    """
    kinds = [(tuple(t.shape[1:]), str(t.dtype)) for t in own]
    rows = _REFUSED if refusal is not None else own[0].shape[0]
    signature = zlib.crc32(repr((settings, kinds)).encode())
    device = own[0].device if own else device or handle.device
    header = torch.tensor(
        [rows, signature, _mask(wanted), allowed_bytes], dtype=torch.int64, device=device
    )
    headers = header.new_empty((handle.world_size, len(header)))
    handle.all_gather(headers.view(-1), header)
    told = headers.tolist()
    if refusal is not None:
        raise refusal
    refused = [r for r, (count, *_) in enumerate(told) if count == _REFUSED]
    if refused:
        raise ValueError(f"rank(s) {refused} refused their part of the batch; see the error there.")
    others = [r for r, (_, crc, *_) in enumerate(told) if crc != signature]
    if others:
        raise ValueError(
            f"the batch of rank {handle.rank} does not belong with that of rank(s) {others}: they differ in "
            f"settings, layers, widths or dtypes; here {settings}, widths and dtypes {kinds}."
        )
    counts, _, masks, allowed = zip(*told, strict=True)
    shards = Shards(counts, handle.rank, _unmask(masks, len(own)), min(allowed))
    if not shards.n:
        raise ValueError(
            f"the global batch has {shards.n} sample(s), at least 2 are needed to center."
        )
    return shards


def _mask(wanted: Sequence[bool]) -> int:
    mask = 0
    for v, is_wanted in enumerate(wanted):
        mask |= is_wanted << min(v, _MASK_BITS - 1)
    return mask


def _unmask(masks: Sequence[int], variables: int) -> frozenset[int]:
    """The variables that are in any of the masks."""
    return frozenset(
        v for v in range(variables) if any(m >> min(v, _MASK_BITS - 1) & 1 for m in masks)
    )


@torch.no_grad()
def gather_rows(handle: GroupHandle, shards: Shards, own: Sequence[Tensor]) -> list[Tensor]:
    """The rows of all ranks, (n, ...) each, from this rank's (n_r, ...); no graph."""
    pending = []
    for t in own:
        part = t.detach().contiguous()
        if part.shape[0] < shards.most:
            part = torch.cat([part, part.new_zeros((shards.most - part.shape[0], *part.shape[1:]))])
        whole = part.new_empty((shards.world_size * shards.most, *part.shape[1:]))
        # As bytes, so that no backend's list of dtypes matters.
        work = handle.all_gather(
            whole.view(-1).view(torch.uint8), part.view(-1).view(torch.uint8), wait=False
        )
        pending.append((whole, part, work))
    gathered = []
    for whole, _, work in pending:
        work.wait()
        if not shards.even:
            parts = whole.split(shards.most)
            whole = torch.cat([p[:count] for p, count in zip(parts, shards.counts, strict=True)])
        gathered.append(whole)
    return gathered
