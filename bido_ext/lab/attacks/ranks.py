# SPDX-License-Identifier: Apache-2.0
"""Several processes that share the searches of one attack: ``torchrun -m bido_ext attack ...``."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
#: The others wait while the leader trains a prior, which may take days.
PATIENCE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those that share the work.

    Rank 0 leads: it alone writes files, shows progress and speaks.

    Attributes:
        rank: 0 to size - 1.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """What torchrun says; joins the others, each with a GPU of its own where there are several."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or "RANK" not in os.environ:
            return cls()
        import torch.distributed as dist

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if not dist.is_initialized():
            with _output_to_stderr():
                dist.init_process_group("gloo", timeout=PATIENCE)
        return cls(int(os.environ["RANK"]), size)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def exchange(self, value: T) -> list[T]:
        """Everybody's value, in the order of the ranks; tensors on the CPU."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def by_leader(self, work: Callable[[], T]) -> T:
        """The leader does it; what it returns, plain values, or its error reaches all."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = work()
            except Exception as error:  # the others must not wait for one that is gone
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]  # type: ignore[no-any-return]

    def leader_first(self, work: Callable[[], T]) -> T:
        """The leader does it and leaves files; then each of the others does it, and finds them."""
        mine: list[T] = []
        self.by_leader(lambda: mine.append(work()))
        return mine[0] if mine else work()


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """PyTorch 2.10's Gloo writes its greeting to standard output, where ``--json`` is."""
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)


#: One process has all the work.
ALONE = Ranks()
