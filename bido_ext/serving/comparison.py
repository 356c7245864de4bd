# SPDX-License-Identifier: Apache-2.0
"""What the first-use check compares with: the errors allowed, and the worst one found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

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
        limits: Sequence[Callable[..., str | None]] = (),
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
