# SPDX-License-Identifier: Apache-2.0
"""Checks on the arguments of plan and on workspace_bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bido_ext.ops._validate import check_integer

#: Rows and columns are counted in 32 bits, bytes in 64.
LARGEST_COUNT, LARGEST_WORKSPACE = 1 << 31, 1 << 62
#: n x n matrices of a group are counted in bytes.
LARGEST_N = 65535 * 1024


class WorkspaceError(MemoryError, ValueError):
    """A computation does not fit into the memory. It is raised before anything is allocated.

    It is a MemoryError, because more memory or a smaller batch helps. It is also a ValueError, because an
    argument (``workspace_bytes``) may be the cause.
    """


def check_count(value: object, name: str, least: int, bound: int = LARGEST_COUNT) -> int:
    """An integer, at least ``least`` and below ``bound``."""
    count = check_integer(value, name)
    if not least <= count < bound:
        raise ValueError(f"{name} must be at least {least} and below {bound}, got {value}.")
    return count


def check_device(device: object) -> None:
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a torch.device or a string, got {type(device).__name__}.")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that PyTorch knows.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device}, but this machine has no CUDA device.")


def check_dims(dims: object) -> list[int]:
    """Two widths or more, one of them of features."""
    if not isinstance(dims, Sequence) or isinstance(dims, (str, bytes)):
        raise TypeError(f"dims must be a list of widths, got {type(dims).__name__}.")
    widths = [check_count(d, "each of dims", 0) for d in dims]
    if len(widths) == 1:
        widths.append(0)
    if len(widths) < 2 or max(widths) < 1:
        raise ValueError(
            "dims must be the widths of at least two variables, one of them features; "
            f"got {list(dims)}."
        )
    return widths


def check_workspace(workspace_bytes: object) -> None:
    """None or a positive integer."""
    if workspace_bytes is None:
        return
    workspace_bytes = check_integer(workspace_bytes, "workspace_bytes")
    if workspace_bytes <= 0:
        raise ValueError(f"workspace_bytes must be positive, got {workspace_bytes}.")
    if workspace_bytes >= LARGEST_WORKSPACE:
        raise ValueError(
            f"workspace_bytes must be below 2^62, got {workspace_bytes}: leave it unset."
        )
