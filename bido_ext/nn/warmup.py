# SPDX-License-Identifier: Apache-2.0
"""A linear warm-up of the weights, counted on the device so that no step waits and no graph is made anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bido_ext.ops._validate import check_integer


class Warmup(nn.Module):
    """The factor min(1, t / steps) in training step t = 1, 2, ...

    Args:
        steps: Training steps until the weights are whole; 0: from the first on, and no state.

    Attributes:
        done: Training steps so far; with steps > 0 only. Part of the state_dict, so that a run that goes
            on does not warm up again.
    """

    done: Tensor

    def __init__(self, steps: object) -> None:
        super().__init__()
        steps = check_integer(steps, "warmup_steps")
        if steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {steps}.")
        self.steps = steps
        if steps:
            self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"steps={self.steps}"

    def factor(self, device: torch.device) -> Tensor | None:
        """Of the training step that comes next, 0-d float64; None without a warm-up."""
        if not self.steps:
            return None
        if self.done.device != device:
            self.done = self.done.to(device, non_blocking=True)
        return ((self.done + 1).double() / self.steps).clamp(max=1)

    def advance(self) -> None:
        """Counts a training step."""
        if self.steps:
            self.done.add_(1)
