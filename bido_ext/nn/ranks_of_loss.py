# SPDX-License-Identifier: Apache-2.0
"""The ranks whose samples a loss is about: one process, a process group, or "world" once it is there."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from bido_ext.ops._validate import check_choice

if TYPE_CHECKING:  # a PyTorch without torch.distributed has no ProcessGroup
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from bido_ext.nn.shards import GroupHandle


class RanksOfLoss:
    """What ``process_group`` and ``local`` of BiDOLoss mean.

    Attributes:
        handle: The group, or None while the samples are those of this process alone.
    """

    handle: GroupHandle | None

    def __init__(self, process_group: ProcessGroup | DeviceMesh | str | None, local: bool) -> None:
        if not isinstance(local, bool):
            raise TypeError(f"local must be True or False, got {type(local).__name__}.")
        if isinstance(process_group, str):
            check_choice(process_group, "process_group", ("world",))
        later = process_group is None or isinstance(process_group, str)
        handle = None if later else _handle_of(process_group)
        self.handle = None if local else handle
        self._of_world = isinstance(process_group, str) and not local
        self._may_be_alone = process_group is None and not local

    @property
    def world_size(self) -> int:
        if self._of_world and self.handle is None:
            return ranks_at_hand()
        return self.handle.world_size if self.handle else 1

    def find(self) -> None:
        """Looks "world" up; tells a loss that nobody told of the other ranks, once."""
        if self._of_world and self.handle is None:
            self.handle = _world()
        # In this order: what is asked in a graph is a condition of it, and this changes once.
        if not torch.compiler.is_compiling() and self._may_be_alone:
            self._may_be_alone = False
            if ranks_at_hand() > 1:
                warnings.warn(
                    f"BiDOLoss sees this rank's samples alone, although there are {ranks_at_hand()} ranks: "
                    'give process_group="world" for the terms of all samples, or local=True if this is meant.',
                    stacklevel=5,  # the line that calls the loss
                )

    def __getstate__(self) -> dict[str, Any]:
        """All ranks are looked up again where a copy is used: a file outlives the group."""
        state = vars(self).copy()
        if self._of_world or (self.handle is not None and self.handle.is_world):
            state |= {"handle": None, "_of_world": True}
        return state


def ranks_at_hand() -> int:
    """How many ranks there are, whether or not somebody exchanges anything; 1 without any."""
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _handle_of(group: object) -> GroupHandle:
    # Loaded where ranks exist: DeviceMesh takes a second to import.
    from bido_ext.nn.shards import GroupHandle

    return GroupHandle(group)


def _world() -> GroupHandle:
    from bido_ext.nn.shards import world

    return world()
