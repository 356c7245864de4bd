# SPDX-License-Identifier: Apache-2.0
"""How a measure will run: regime, tile and bytes, decided before any memory is touched.

The arithmetic is ``csrc/common/planner.h``; here it is given the free memory and put into words.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bido_ext.ops._define import accumulation_dtype
from bido_ext.ops._validate import check_choice

MEASURES = ("hsic", "nhsic", "coco", "cka")
#: n x n matrices alive at the peak of value and gradient. In float64 (n <= 1024): Gram matrix, factor or
#: centered matrix of both variables, products, gradients.
ALGEBRA_MATRICES = {"nhsic": 8, "coco": 8}
#: Share of the free memory that the dense regime may take unasked.
DENSE_SHARE = 0.5
GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What a measure will do.

    Attributes:
        regime: "dense" keeps the Gram matrices; "streaming" makes their tiles twice and keeps none.
        tile: Rows of a tile; 0 where whole matrices are kept (nhsic, coco).
        workspace_bytes: Predicted peak beyond inputs and gradients.
        reason: Why, with the numbers.
    """

    regime: str
    tile: int
    workspace_bytes: int
    reason: str


def plan(
    n: int,
    dims: Sequence[int],
    dtype: torch.dtype = torch.float32,
    measure: str = "hsic",
    workspace_bytes: int | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Plans value and gradient of a measure of two variables.

    Args:
        n: Samples.
        dims: Widths of the two variables; 0, or a missing second one, stands for integer labels.
        dtype: Of the features.
        measure: "hsic", "nhsic", "coco" or "cka". Only hsic and cka can stream.
        workspace_bytes: Bound on the memory beyond inputs and gradients; default: the dense regime
            while it takes at most half of the free memory, else streaming.
        device: Where the features are.

    Raises:
        ValueError: An argument does not fit.
        MemoryError: No regime fits into workspace_bytes (or into the free memory).
    """
    check_choice(measure, "measure", MEASURES)
    widths = [*dims, 0] if len(dims) == 1 else list(dims)
    if n < 2 or len(widths) != 2 or widths[0] < 1 or widths[1] < 0:
        raise ValueError(
            f"plan needs n >= 2 and the widths of two variables, got n={n}, dims={list(dims)}."
        )
    check_workspace(workspace_bytes)
    element = accumulation_dtype(dtype).itemsize
    if measure in ALGEBRA_MATRICES:
        return _plan_algebra(n, element, measure, workspace_bytes, torch.device(device))
    free = free_memory(str(device)) if workspace_bytes is None else 0
    budget = int(DENSE_SHARE * free) if workspace_bytes is None else workspace_bytes
    try:
        planner = importlib.import_module("bido_ext._C")
    except ImportError as error:
        raise RuntimeError(
            "the planner is part of bido_ext._C, which was not built here."
        ) from error
    result = planner.plan_pair(n, widths[0], widths[1], element, budget)
    bound = (
        f"workspace_bytes={workspace_bytes:,}"
        if workspace_bytes is not None
        else f"half of the {free / GIB:.1f} GiB of free memory"
    )
    if result["regime"] == "refused":
        raise MemoryError(
            f"{measure} of n={n:,} samples needs at least {result['smallest_bytes']:,} bytes beyond its "
            f"inputs even when streaming, more than {bound}: raise workspace_bytes or lower n."
        )
    fits = "fits into" if result["regime"] == "dense" else "does not fit into"
    reason = f"dense takes {result['dense_bytes']:,} bytes and {fits} {bound}"
    return Plan(result["regime"], result["tile"], result["bytes"], reason)


def _plan_algebra(
    n: int, element: int, measure: str, workspace_bytes: int | None, device: torch.device
) -> Plan:
    from bido_ext.ops.measure import FLOAT64_UP_TO

    width = 8 if n <= FLOAT64_UP_TO else element
    needed = ALGEBRA_MATRICES[measure] * n * n * width
    free = free_memory(str(device)) if workspace_bytes is None else workspace_bytes
    if needed > free:
        raise MemoryError(
            f"{measure} of n={n:,} samples needs about {needed:,} bytes of n x n matrices, more than the "
            f"{free:,} allowed: lower n, or use hsic or cka, which stream."
        )
    return Plan(
        "dense", 0, needed, f"{measure} has no streaming form; {needed:,} of {free:,} bytes"
    )


def check_workspace(workspace_bytes: object) -> None:
    """None or a positive integer."""
    if workspace_bytes is None:
        return
    if isinstance(workspace_bytes, bool) or not isinstance(workspace_bytes, int):
        raise TypeError(
            f"workspace_bytes must be an integer, got {type(workspace_bytes).__name__}."
        )
    if workspace_bytes <= 0:
        raise ValueError(f"workspace_bytes must be positive, got {workspace_bytes}.")


@torch.compiler.assume_constant_result
def free_memory(device: str) -> int:
    """Free bytes of a device, as the operating system or the driver reports them."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 8 * GIB  # unknown system: assume a small one
