# SPDX-License-Identifier: Apache-2.0
"""The first-use check: an implementation against the float64 reference, on the user's own device.

A few odd shapes per op, forward and backward, milliseconds each (``check`` of a row). An implementation serves
only after it has passed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch

from bido_ext.serving.comparison import Check
from bido_ext.serving.row import ROWS, Function


def self_check(
    op: str,
    functions: Mapping[str, Function],
    dtype: torch.dtype,
    device: torch.device,
    *,
    tf32: bool = False,
    shapes: Sequence[tuple[int, int]] | None = None,
    implementation: str = "",
) -> float:
    """Compares ``functions``, by their names, with the reference of the op.

    Args:
        shapes: Rows and columns to check; default: those of the op's row and of the implementation.
        implementation: Whose functions they are; what it does not take is not asked of it.

    Returns:
        The largest relative error.

    Raises:
        SelfCheckError: A result is off; says which, by how much, and what is allowed.
    """
    row = ROWS[op]
    known = row.get(implementation)
    check = Check(device, dtype, tf32=tf32, limits=() if known is None else known.limits)
    assert row.check is not None
    for n, d in shapes or row.shapes_of(implementation):
        generator = torch.Generator().manual_seed(n)
        x = (torch.rand((n, d), generator=generator) + 1).to(dtype)
        x[n // 2] = x[0]  # duplicate rows: a zero distance off the diagonal
        row.check(functions, x, check)
    return check.worst


def outcome(
    op: str,
    functions: Mapping[str, Function],
    dtype: torch.dtype,
    device: torch.device,
    tf32: bool,
    implementation: str = "",
) -> float | str:
    """The largest relative error, or in words what is wrong; from inside of an op too."""
    found: list[float | str] = []

    def check() -> None:
        try:
            found.append(
                self_check(op, functions, dtype, device, tf32=tf32, implementation=implementation)
            )
        except Exception as error:  # whatever a kernel does wrong, another one can serve
            said = str(error).splitlines()
            found.append(f"{type(error).__name__}: {said[0] if said else ''}")

    # In a thread of its own: inside of an op autograd, which the reference needs, is switched off.
    thread = threading.Thread(target=check, name="bido_ext self-check")
    thread.start()
    thread.join()
    return found[0]
