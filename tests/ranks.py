# SPDX-License-Identifier: Apache-2.0
"""Runs a function in several gloo processes on this machine and collects what each returns."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from preloaded import server


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """function(rank, world_size, *args) in each process; its results in rank order.

    The function must live in a module that can be imported, its results must be tensors and containers.
    """
    server()  # PyTorch is imported once, by the process that all ranks of all tests are forked from
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, (world_size, folder, function, args), world_size, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world_size)]


def _rank(
    rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/store", world_size),
        rank=rank,
        world_size=world_size,
        # Beside other work a process may start minutes after the others.
        timeout=datetime.timedelta(seconds=600),
    )
    try:
        torch.save(function(rank, world_size, *args), Path(folder) / f"{rank}.pt")
        # A rank that leaves closes its connections, and a slower one may still wait for its last message.
        with suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()
