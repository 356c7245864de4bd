# SPDX-License-Identifier: Apache-2.0
"""The inputs of a benchmark: X like images, layers like activations of it, labels or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class BenchProblem:
    """Inputs of one value and gradient.

    Attributes:
        x: Network input (n, d), without gradient.
        layers: Features (n, d_j); the gradient is taken in these.
        labels: Integer labels (n,), or None: d(X, Z) of one layer instead of a BiDO step.
        sigma: Bandwidth of the Gaussian kernels, scaled by sqrt(d).
        eps: Ridge of nhsic.
        lambda_x, lambda_y: Weights of a step.
    """

    x: Tensor
    layers: tuple[Tensor, ...]
    labels: Tensor | None
    sigma: float = 5.0
    eps: float = 1e-5
    lambda_x: float = 0.05
    lambda_y: float = 0.5

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> BenchProblem:
        """A copy whose layers are leaves that ask for gradients."""
        x, *layers = (
            v.detach().to(device=device, dtype=dtype, copy=True) for v in (self.x, *self.layers)
        )
        labels = None if self.labels is None else self.labels.to(x.device)
        leaves = tuple(z.requires_grad_() for z in layers)
        return replace(self, x=x, layers=leaves, labels=labels)


def make_problem(n: int, dims: Sequence[int], num_classes: int) -> BenchProblem:
    """float32 on the CPU, the same for the same arguments; num_classes 0: no labels."""
    generator = torch.Generator().manual_seed(n + sum(dims))
    brightness = torch.rand(n, 1, generator=generator)
    x = 0.4 * torch.rand(n, dims[0], generator=generator) + 0.6 * brightness
    layers = []
    for d in dims[1:]:
        columns = torch.arange(d) % dims[0]
        layers.append(torch.relu(torch.randn(n, d, generator=generator) + 0.5 * x[:, columns]))
    labels = torch.randint(0, num_classes, (n,), generator=generator) if num_classes else None
    return BenchProblem(x, tuple(layers), labels)
