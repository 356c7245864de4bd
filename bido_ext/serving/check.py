# SPDX-License-Identifier: Apache-2.0
"""The first-use check: an implementation against the float64 reference, on the user's own device.

A few odd shapes per op, forward and backward, milliseconds each (``check`` of a row). An implementation serves
only after it has passed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bido_ext.serving.row import ROWS, Function, Limit

#: Relative error allowed, (values, gradients): float32 products, TF32 products, half-precision features.
TOLERANCES = {"float32": (1e-5, 1e-4), "tf32": (5e-3, 2e-2), "half": (1e-4, 1e-2)}


class SelfCheckError(AssertionError):
    """An implementation disagrees with the reference."""


class Check:
    """What a row compares with: the device, the errors allowed, and the worst error found.

    Attributes:
        device: Where the functions compute.
        values, grads: Relative errors allowed of values and of gradients.
        tf32: Whether products of float32 may be TF32.
        limits: What the implementation does not take; of the sizes in them a check knows nothing.
        worst: The largest relative error so far.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *, tf32: bool = False,
        limits: Sequence[Limit] = (),
    ) -> None:  # fmt: skip
        kind = "half" if dtype.itemsize == 2 else "tf32" if tf32 else "float32"
        self.device, self.tf32, self.limits, self.worst = device, tf32, limits, 0.0
        self.values, self.grads = TOLERANCES[kind]

    def compare(self, what: str, got: object, wanted: Tensor, allowed: float) -> None:
        """Raises SelfCheckError where ``got`` has another shape, or is off by more than ``allowed``."""
        assert isinstance(got, Tensor)
        got = got.detach().double().cpu()
        if got.shape != wanted.shape:
            raise SelfCheckError(
                f"{what} is of shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
            )
        error = float((got - wanted).norm() / wanted.norm().clamp_min(1e-300))
        if not error <= allowed:  # NaN fails
            raise SelfCheckError(
                f"{what} of shape {tuple(got.shape)} is off by {error:.1e}, allowed {allowed:.0e}"
            )
        self.worst = max(self.worst, error)


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
