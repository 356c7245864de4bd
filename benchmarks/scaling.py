# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of a rank of the global batch, in 1, 2 and 4 local processes, beside the cost model.

python -m benchmarks.scaling [--n 2048] [--rounds 5] [--exchange ring]      # prints a Markdown table

CPU time of the process, not wall time: the ranks share the cores of one machine, and so may others.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

import bido_ext as bx
from benchmarks.machine import machine_line
from benchmarks.scaling_model import cost_of_step

DIMS = (1024, 1024, 512, 256, 0)


def measure(rank: int, world_size: int, n: int, rounds: int, exchange: str, folder: str) -> None:
    """One rank: median CPU seconds of value and gradient of hsic, written to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/store", world_size),
        rank=rank,
        world_size=world_size,
    )
    torch.manual_seed(rank)
    rows = n // world_size
    x = torch.rand(rows, DIMS[0])
    layers = [torch.rand(rows, d, requires_grad=True) for d in DIMS[1:-1]]
    y = torch.randint(0, 10, (rows,))
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0, process_group=dist.group.WORLD, exchange=exchange)
    seconds = []
    for _ in range(rounds + 1):
        dist.barrier()
        began = time.process_time()
        torch.autograd.grad(criterion(x, layers, y), layers)
        seconds.append(time.process_time() - began)
    torch.save(statistics.median(seconds[1:]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def table(n: int, rounds: int, exchange: str = "gather") -> str:
    """The measured table, Markdown."""
    lines = [
        "| ranks | CPU s of a rank | against 1 rank | model: Gflop | against 1 rank | MB received |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first: tuple[float, float] | None = None
    for world_size in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(
                measure, (world_size, n, rounds, exchange, folder), nprocs=world_size, join=True
            )
            own = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world_size)]
        cost = cost_of_step(n, DIMS, "hsic", world_size, exchange=exchange)
        # With a group of one rank, too, the row panels run: the model's share of rows is all of them.
        flops = 2.0 * (n / world_size) * n * (sum(DIMS) + sum(DIMS[1:-1]))
        now = (max(own), flops)
        first = first or now
        lines.append(
            f"| {world_size} | {now[0]:.2f} | {now[0] / first[0]:.2f} | {flops / 1e9:.1f} | "
            f"{flops / first[1]:.2f} | {cost.exchange.bytes / 1e6:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exchange", choices=("gather", "ring"), default="gather")
    options = parser.parse_args()
    print(table(options.n, options.rounds, options.exchange))
    print(machine_line("cpu"))
