# SPDX-License-Identifier: Apache-2.0
"""What the checks of several rows put in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import GAUSSIAN, LABELS


def noise(*shape: int) -> Tensor:
    """The same standard normal numbers every time, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def power_of_two_over(gradient: Tensor) -> float:
    """Brings the largest entry of a gradient near 1: float16 holds nothing below 6e-8."""
    return 2.0 ** -math.floor(math.log2(max(float(gradient.abs().max()), 1e-300)))


@dataclass
class Layer:
    """The group of one layer z beside an input x and labels, and the pairs (z, x) and (z, labels).

    Attributes:
        there: Its variables on the device.
        wide: z in float64, for the reference's gradient.
        stack: The reference's Gram matrices, float64.
        g: The gradient of the two values, float64.
    """

    x: Tensor
    device: torch.device
    kinds = (GAUSSIAN, GAUSSIAN, LABELS)
    first, second = (1, 1), (0, 2)

    def __post_init__(self) -> None:
        x, (n, d) = self.x, self.x.shape
        labels = torch.arange(n) % 3
        z = (x * torch.rand((1, d), generator=torch.Generator().manual_seed(2))).to(x.dtype)
        parameters = torch.tensor([1 / (50 * d), 1 / (50 * d), 1.0], dtype=torch.float64)
        self.parameters = parameters.to(self.device)
        self.there = [t.to(self.device) for t in (x, z, labels)]
        self.wide = z.to(torch.float64, copy=True).requires_grad_()
        self.stack = reference.gram_stack([x.double(), self.wide, labels], parameters, self.kinds)
        self.g = torch.tensor([0.3, -1.0], dtype=torch.float64)

    def wanted_gradient(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """g scaled so that half precision holds the gradient of ``values`` [2], and that gradient."""
        (unscaled,) = torch.autograd.grad(values, self.wide, self.g, retain_graph=True)
        scale = power_of_two_over(unscaled)
        return (scale * self.g).to(self.device), scale * unscaled
