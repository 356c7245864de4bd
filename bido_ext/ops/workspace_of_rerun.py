# SPDX-License-Identifier: Apache-2.0
"""A bound on memory holds for the second run in float64 as well (bido_ext/_float64.py), or it is refused.

That run streams, so that it takes the features in float64 and the tiles of one row at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bido_ext.ops._plan_arguments import WorkspaceError
from bido_ext.ops.plan import streams_within
from bido_ext.reference.gram_stack import GRAM, LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator

_local = threading.local()


def bounded(workspace_bytes: int | None) -> AbstractContextManager[None]:
    """What runs within takes at most so many bytes beyond inputs and gradients; None: no bound."""
    if workspace_bytes is None or torch.compiler.is_compiling():
        return nullcontext()
    return _bounded(workspace_bytes)


@contextmanager
def _bounded(workspace_bytes: int) -> Iterator[None]:
    before = getattr(_local, "bound", None)
    _local.bound = workspace_bytes
    try:
        yield
    finally:
        _local.bound = before


def is_bounded() -> bool:
    return getattr(_local, "bound", None) is not None


def tile_of_rerun(n: int, tile: int) -> int:
    """Rows of a tile in float64, where float32 had tiles of so many: room is left for the features."""
    return tile if tile >= n else max(1, tile // 4)


def fits_in_float64(variables: Sequence[Tensor], kinds: Sequence[int], tile: int) -> bool:
    """Whether hsic of float32 features may run again in float64; False where that cannot help.

    Raises:
        WorkspaceError: It would take more than the bound.
    """
    bound: int | None = getattr(_local, "bound", None)
    if bound is None or GRAM in kinds:
        return True
    features = [v for v, kind in zip(variables, kinds, strict=True) if kind != LABELS]
    if not all(bool(v.isfinite().all()) for v in features):
        return False
    copies = 8 * sum(v.numel() for v in features)
    n, dims = (
        len(variables[0]),
        [0 if k == LABELS else v.shape[1] for v, k in zip(variables, kinds, strict=True)],
    )
    if copies < bound and streams_within(n, dims, tile, bound - copies):
        return True
    raise WorkspaceError(
        f"float32 does not hold the Gram matrices of these features; float64 takes {copies:,} bytes for "
        f"the features and tiles beside them, more than workspace_bytes={bound:,}: raise it, scale features "
        "down (or sigma up), or pass float64, which is then an input."
    )
