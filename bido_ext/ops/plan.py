# SPDX-License-Identifier: Apache-2.0
"""How a measure will run: regime, tile and bytes, decided before any memory is touched.

The arithmetic is ``csrc/common/planner.h``; here it is given the free memory and put into words.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bido_ext.ops._graph_constant import graph_constant
from bido_ext.ops._plan_arguments import (
    LARGEST_N,
    WorkspaceError,
    check_count,
    check_device,
    check_dims,
    check_workspace,
)
from bido_ext.ops._symbolic import surely
from bido_ext.ops._validate import FLOATS, check_choice
from bido_ext.ops.exchange import exchange_of_ring, exchange_of_step
from bido_ext.ops.group import Group
from bido_ext.ops.host_memory import free_host_memory
from bido_ext.ops.ring_memory import (
    EXCHANGES,
    GIB,
    PANEL_BYTES,
    gathered_bytes,
    passing_bytes,
    ring_blocks,
)
from bido_ext.ops.streaming import can_stream, keeps_tiles
from bido_ext.reference.gram_stack import GRAM, accumulation_dtype

MEASURES = ("hsic", "nhsic", "coco", "cka")
#: Up to this n a Gram matrix is one tile.
WHOLE_UP_TO = 512
#: Beyond, the upper tiles of this many rows are kept: a little more than half of the matrix.
DENSE_TILE = 128
#: Up to this n the n x n algebra of nhsic and coco runs in float64: n^3 is still small beside n^2 d.
FLOAT64_UP_TO = 1024
#: Share of the free memory that the dense regime may take unasked.
DENSE_SHARE = 0.5


@dataclass(frozen=True)
class Plan:
    """How a measure will run, as :func:`bido_ext.plan` predicts it.

    Attributes:
        regime: "dense" keeps the Gram matrices. "streaming" computes their tiles twice, except those that fit
            into the workspace. With several ranks "panels": each rank computes its rows.
        tile: Rows of a tile; 0 if whole matrices are kept (nhsic, coco).
        kept_tiles: Tiles kept for each variable; -1 for all.
        workspace_bytes: Predicted peak of the memory beyond inputs and gradients, in bytes.
        reason: Why, in words and numbers.
        moved_bytes: With several ranks: bytes that a rank receives in a step, all of them in the forward.
        messages: With several ranks: messages of a step (collectives, and tensors received in the ring).
        exchange: With several ranks: "gather" or "ring", how features reach the other ranks.
    """

    regime: str
    tile: int
    kept_tiles: int
    workspace_bytes: int
    reason: str
    moved_bytes: int = 0
    messages: int = 0
    exchange: str = ""


def plan(
    n: int,
    dims: Sequence[int],
    dtype: torch.dtype = torch.float32,
    measure: str = "hsic",
    workspace_bytes: int | None = None,
    device: torch.device | str = "cpu",
    world_size: int = 1,
    exchange: str = "auto",
) -> Plan:
    """Predicts how a measure will run and how much memory it takes, before anything is computed.

    The plan is for value and gradient, of two variables or of a whole BiDO step.

    Args:
        n: Number of samples, of all ranks.
        dims: Number of columns of each variable: two numbers for a pair; X and every layer for a step. 0
            means integer labels. With a single number the second variable is integer labels.
        dtype: dtype of the features.
        measure: "hsic", "nhsic", "coco" or "cka". Only hsic and cka can stream.
        workspace_bytes: Largest memory in bytes beyond inputs and gradients. Default: dense, if that takes at
            most half of the free memory, else streaming.
        device: Device of the features.
        world_size: Number of ranks of ``BiDOLoss(process_group=...)``, with equal shares of the samples. hsic
            and cka then compute rows on each rank ("panels"; ``tile``: rows of a block). nhsic and coco run
            on every rank as a whole. The last of dims is that of the targets.
        exchange: As for BiDOLoss: "gather", "ring", or "auto", which takes the ring if the gathered features
            exceed workspace_bytes (default: half of the free memory).

    Returns:
        A ``Plan``.

    Raises:
        TypeError: dtype is not float64, float32, bfloat16 or float16.
        ValueError: An argument does not fit.
        WorkspaceError: Not even streaming fits into workspace_bytes, or into the free memory.

    Example:
        >>> bx.plan(4096, [12288, 65536, 2048, 0], measure="hsic")
    """
    check_choice(measure, "measure", MEASURES)
    n = check_count(n, "n", 2, LARGEST_N)
    widths = check_dims(dims)
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS:
        raise TypeError(f"dtype must be float64, float32, bfloat16 or float16, got {dtype!r}.")
    check_device(device)
    check_workspace(workspace_bytes)
    world_size = check_count(world_size, "world_size", 1)
    check_choice(exchange, "exchange", EXCHANGES)
    element = accumulation_dtype(dtype).itemsize
    if world_size > 1:
        share = n, widths, dtype, element, measure, workspace_bytes, device, world_size
        if exchange == "auto":
            whole = gathered_bytes(n, [(d, dtype.itemsize) for d in widths])
            ring = whole > allowed_for_gathering(workspace_bytes, str(device))
            exchange = "ring" if ring else "gather"
        return _plan_ring(*share) if exchange == "ring" else _plan_gather(*share)
    if measure in ("nhsic", "coco"):
        sizes = n, widths, element
        if _in_float64_if_it_fits(n, measure, str(device)):
            try:
                # Gram matrices too may be made in float64 (bido_ext/_float64.py).
                return _plan_algebra(n, widths, 8, 8, measure, workspace_bytes, str(device))
            except WorkspaceError:
                pass
        algebra = 8 if n <= FLOAT64_UP_TO else element
        return _plan_algebra(*sizes, algebra, measure, workspace_bytes, str(device))
    free = free_memory(str(device)) if workspace_bytes is None else 0
    budget = int(DENSE_SHARE * free) if workspace_bytes is None else workspace_bytes
    where = torch.device(device).type
    on_panels = where != "cpu" or (can_stream(where, dtype) and not keeps_tiles(where))
    planner = _planner().plan_panels if on_panels else _planner().plan_group
    result = planner(n, widths, element, budget)
    bound = (
        f"workspace_bytes={workspace_bytes:,}"
        if workspace_bytes is not None
        else f"half of the {free / GIB:.1f} GiB of free memory"
    )
    if result["regime"] == "refused":
        raise WorkspaceError(
            f"{measure} of n={n:,} samples needs at least {result['smallest_bytes']:,} bytes beyond its "
            f"inputs even when streaming, more than {bound}: raise workspace_bytes or lower n."
        )
    fits = "fits into" if result["regime"] == "dense" else "does not fit into"
    reason = f"dense takes {result['dense_bytes']:,} bytes and {fits} {bound}"
    return Plan(result["regime"], result["tile"], result["kept"], result["bytes"], reason)


def _plan_gather(
    n: int, dims: Sequence[int], dtype: torch.dtype, element: int, measure: str,
    workspace_bytes: int | None, device: torch.device | str, world_size: int,
) -> Plan:  # fmt: skip
    rows = -(-n // world_size)
    moved = exchange_of_step(rows, dims, dtype.itemsize, measure, world_size)
    gathered = gathered_bytes(n, [(d, dtype.itemsize) for d in dims])
    text = f"{world_size} ranks gather features, {moved.bytes:,} bytes received per rank and step"
    if measure in ("nhsic", "coco"):
        whole = plan(n, dims, dtype, measure, workspace_bytes, device)
        return replace(
            whole, workspace_bytes=whole.workspace_bytes + gathered, moved_bytes=moved.bytes,
            messages=moved.messages, reason=f"{text}; {whole.reason}", exchange="gather",
        )  # fmt: skip
    block, panel_bytes = row_blocks(n, len(dims), element, rows, workspace_bytes)
    kept = "kept" if block >= rows else f"made twice, {block:,} rows at a time"
    # The gathered rows, one variable centered, and the panels.
    centered = n * max(dims) * element
    return Plan(
        "panels", block, -1 if block >= rows else 0, gathered + centered + panel_bytes,
        f"{text}; panels of {rows:,} rows are {kept}", moved.bytes, moved.messages, "gather",
    )  # fmt: skip


def _plan_ring(
    n: int, dims: Sequence[int], dtype: torch.dtype, element: int, measure: str,
    workspace_bytes: int | None, device: torch.device | str, world_size: int,
) -> Plan:  # fmt: skip
    counts = [-(-n // world_size)] * world_size
    whole = measure in ("nhsic", "coco")
    element = (
        8 if measure == "nhsic" else element
    )  # its ridge needs Gram matrices to the last digit
    blocks = ring_blocks(counts, len(dims), element, workspace_bytes, whole)
    moved = exchange_of_ring(counts, 0, dims, dtype.itemsize, element, measure, blocks.keep)
    needed = passing_bytes(counts, dims, dtype.itemsize, element) + blocks.bytes
    kept = "kept" if blocks.keep else f"made twice, {blocks.block:,} rows at a time"
    text = (
        f"{world_size} ranks pass features round a ring, {moved.bytes:,} bytes received per rank and "
        f"step; panels of {counts[0]:,} rows are {kept}"
    )
    regime = "panels"
    if whole:
        # Whole Gram matrices of the features and gradients of them, beside the algebra's own.
        algebra = plan(n, [n if d else 0 for d in dims], dtype, measure, workspace_bytes, device)
        given = 2 * n * n * element * (len(dims) - 1)
        regime, needed = "dense", needed + given + algebra.workspace_bytes
        text = f"{text}, then gathered; {algebra.reason}"
    return Plan(
        regime, 0 if whole else blocks.block, -1 if blocks.keep else 0, needed, text, moved.bytes,
        moved.messages, "ring",
    )  # fmt: skip


@graph_constant
def allowed_for_gathering(workspace_bytes: int | None, device: str) -> int:
    """Bytes that gathered features may take on this rank before "auto" takes the ring."""
    if workspace_bytes is not None:
        return workspace_bytes
    # On a CPU, the processes that torchrun started here share what is free.
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "") if not device.startswith("cuda") else ""
    return int(DENSE_SHARE * free_memory(device)) // max(
        int(sharing) if sharing.isdigit() else 1, 1
    )


def row_blocks(
    n: int, variables: int, element: int, rows: int, workspace_bytes: int | None
) -> tuple[int, int]:
    """Rows of a block of a rank's row panels, and the bytes of a block.

    One panel per variable, and the float64 weights of the backward with two temporaries.

    Raises:
        WorkspaceError: Not even one row fits into workspace_bytes.
    """
    per_row = n * (variables * element + 3 * 8)
    block = (workspace_bytes or PANEL_BYTES) // per_row
    if block < 1 and workspace_bytes is not None:
        raise WorkspaceError(
            f"one row of the Gram matrices of n={n:,} samples takes {per_row:,} bytes, more than "
            f"workspace_bytes={workspace_bytes:,}."
        )
    block = max(1, min(block, rows))
    return block, block * per_row


def choose_regime(group: Group, measure: str, workspace_bytes: int | None) -> Plan:
    """The plan of a group at hand, for a measure that can stream."""
    check_workspace(workspace_bytes)
    n, device = group.n, group.variables[0].device
    streams = can_stream(device.type, group.dtype)
    traced = torch.compiler.is_compiling() or not isinstance(n, int)
    if workspace_bytes is None and (
        traced or n <= WHOLE_UP_TO or not streams or GRAM in group.kinds
    ):
        return Plan("dense", dense_tile(n, device.type), -1, 0, "small, or the only regime here")
    if not streams:
        raise ValueError(
            f"workspace_bytes cannot be honoured for {group.dtype} on {device.type}: no streaming kernel "
            "serves there (python -m bido_ext says why). Leave it unset, or move the features to the CPU."
        )
    if workspace_bytes is not None and GRAM in group.kinds:
        raise ValueError("A kernel of your own has no streaming form: leave workspace_bytes unset.")
    return plan(n, group.dims, group.dtype, measure, workspace_bytes, device)


def streams_within(n: int, dims: Sequence[int], tile: int, budget: int) -> bool:
    """Whether float64 tiles of so many rows can be streamed on the CPU within ``budget`` bytes."""
    result = _planner().plan_group(n, list(dims), 8, budget)
    return bool(result["regime"] == "dense" or result["tile"] >= min(tile, n))


def dense_tile(n: int, device: str) -> int:
    """Rows of a tile where the Gram matrices are kept; at least n where they are kept whole, as they are in
    a graph of a dynamic batch."""
    if surely(n <= WHOLE_UP_TO):
        return WHOLE_UP_TO
    if keeps_tiles(device):
        return DENSE_TILE if surely(n > WHOLE_UP_TO) else LARGEST_N
    return n if isinstance(n, int) and not torch.compiler.is_compiling() else LARGEST_N


def check_algebra_fits(
    group: Group,
    measure: str,
    algebra: torch.dtype,
    factors: int,
    entries: torch.dtype | None = None,
) -> None:
    """Refuses nhsic or coco of a group before anything is allocated, if it cannot fit. ``factors``: matrices
    that are kept beside Gram matrices and inverses. ``entries``: of Gram matrices, if not the group's."""
    traced = torch.compiler.is_compiling() or not isinstance(group.n, int)
    if traced or group.n <= WHOLE_UP_TO:
        return
    device = str(group.variables[0].device)
    try:
        _plan_algebra(
            group.n,
            group.dims,
            (entries or group.dtype).itemsize,
            algebra.itemsize,
            measure,
            None,
            device,
            factors,
        )
    except RuntimeError:  # no planner was built: nothing can be foreseen
        return


def _in_float64_if_it_fits(n: int, measure: str, device: str) -> bool:
    # nhsic on a CPU: with the solve form of S float32 is not faster there, and less exact.
    on_cpu = torch.device(device).type == "cpu"
    return measure == "nhsic" and on_cpu and n > FLOAT64_UP_TO


def float64_serves(group: Group, measure: str, factors: int) -> bool:
    """Whether the n x n algebra of a group runs in float64 beyond FLOAT64_UP_TO."""
    if torch.compiler.is_compiling() or not isinstance(group.n, int):
        return False
    if not _in_float64_if_it_fits(group.n, measure, str(group.variables[0].device)):
        return False
    try:
        check_algebra_fits(group, measure, torch.float64, factors, torch.float64)
    except WorkspaceError:
        return False
    return True


def _plan_algebra(
    n: int, dims: Sequence[int], element: int, algebra: int, measure: str,
    workspace_bytes: int | None, device: str, factors: int | None = None,
) -> Plan:  # fmt: skip
    if factors is None:  # of BiDO: X and the labels are the partners, each layer has X
        factors = 2 if measure == "nhsic" else len([d for d in dims if d])
    needed = _planner().algebra_bytes(n, list(dims), element, algebra, measure == "nhsic", factors)
    free = free_memory(device) if workspace_bytes is None else workspace_bytes
    if needed > free:
        raise WorkspaceError(
            f"{measure} of n={n:,} samples needs about {needed:,} bytes of n x n matrices, more than the "
            f"{free:,} allowed: lower n, or use hsic or cka, which stream."
        )
    return Plan(
        "dense", 0, -1, needed, f"{measure} has no streaming form; {needed:,} of {free:,} bytes"
    )


def _planner() -> Any:
    try:
        return importlib.import_module("bido_ext._C")
    except ImportError as error:
        raise RuntimeError(
            "the planner is part of bido_ext._C, which was not built here."
        ) from error


@graph_constant
def free_memory(device: str) -> int:
    """Free bytes of a device, as the operating system or the driver reports them."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_memory()
