# SPDX-License-Identifier: Apache-2.0
"""Cells in several processes, each with its own copy of the run; rows come back as they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.lfw.cells import Cell
from benchmarks.lfw.run import Run

_here: Run | None = None  # of a worker process


def rows_of(
    make_run: Callable[[], Run], cells: Sequence[Cell], jobs: int
) -> Iterator[dict[str, Any]]:
    """The row of every cell, in the order in which they are done.

    Args:
        make_run: Makes the run in each process; its prior and judge must be on disk already.
        jobs: Processes, each with as many threads as this one uses.
    """
    start = (make_run, torch.get_num_threads())
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start, start) as pool:
        waiting = [pool.submit(_row, cell) for cell in cells]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:  # one failed: what has begun ends and is kept on disk, the rest is not begun
            pool.shutdown(cancel_futures=True)


def _start(make_run: Callable[[], Run], threads: int) -> None:
    global _here
    torch.set_num_threads(threads)
    _here = make_run()
    _here.prepare()


def _row(cell: Cell) -> dict[str, Any]:
    assert _here is not None  # set by _start
    return _here.cell(cell)
