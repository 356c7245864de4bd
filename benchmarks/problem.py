# SPDX-License-Identifier: Apache-2.0
"""What an implementation is given: one input, its hidden layers, labels, and the constants.

A *pair* d(X, Z) is a BiDO step with one layer and no labels, so that each rival is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """The inputs of one value-and-gradient computation.

    Attributes:
        x: Network input (n, d), without gradient.
        layers: Hidden features (n, d_j); the gradient is taken with respect to these. Of the ops on
            one matrix (gaussian_gram, double_center) it is their argument.
        labels: Integer labels (n,), or None for a pair.
        lambda_x, lambda_y: value = sum_j lambda_x d(X, Z_j) - lambda_y d(Z_j, Y).
        sigma: Bandwidth of the Gaussian kernels, scaled by sqrt(d).
        eps: Ridge of nhsic, relative to n.
        cotangent: Gradient that flows into a matrix-valued op, (n, n), of a stack (m, n, n); None
            for 0-d values.
    """

    x: Tensor
    layers: tuple[Tensor, ...]
    labels: Tensor | None = None
    num_classes: int | None = None
    lambda_x: float = 1.0
    lambda_y: float = 0.0
    sigma: float = 5.0
    eps: float = 1e-5
    cotangent: Tensor | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.layers[0].shape[0]

    def gamma(self, v: Tensor) -> float:
        """1 / (2 sigma^2 d), the factor in front of the squared distances of v (n, d)."""
        return 1 / (2 * self.sigma**2 * v.shape[1])

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Problem:
        """A copy in another dtype, on another device; the layers ask for gradients."""

        def move(v: Tensor) -> Tensor:
            return v.detach().to(device=device, dtype=dtype)

        return replace(
            self,
            x=move(self.x),
            layers=tuple(move(z).requires_grad_() for z in self.layers),
            labels=None if self.labels is None else self.labels.to(device=device),
            cotangent=None if self.cotangent is None else move(self.cotangent),
        )


def images(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Rows like pictures in [0, 1]: noise around a brightness of each sample; float32."""
    brightness = torch.rand(n, 1, generator=generator)
    return torch.rand(n, d, generator=generator).mul_(0.4).add_(0.6 * brightness)


def activations(source: Tensor, d: int, generator: torch.Generator) -> Tensor:
    """relu(noise + 0.5 source), the source's columns repeated or cut to d; float32 (n, d)."""
    columns = torch.arange(d) % source.shape[1]
    noise = torch.randn(source.shape[0], d, generator=generator)
    return noise.add_(source[:, columns], alpha=0.5).relu_()


def make_pair(n: int, d: int) -> Problem:
    """X like images, Z like activations that depend on X, both (n, d)."""
    generator = torch.Generator().manual_seed(n + d)
    x = images(n, d, generator)
    return Problem(x, (activations(x, d, generator),))


def make_step(n: int, dims: Sequence[int], num_classes: int) -> Problem:
    """A BiDO step: X (n, dims[0]), layers (n, dims[1:]), integer labels of num_classes classes."""
    generator = torch.Generator().manual_seed(n + sum(dims))
    x = images(n, dims[0], generator)
    labels = torch.randint(0, num_classes, (n,), generator=generator)
    layers = tuple(activations(x, d, generator) for d in dims[1:])
    return Problem(x, layers, labels, num_classes, lambda_x=0.05, lambda_y=0.5)


def make_gram(n: int, d: int) -> Problem:
    """Argument (n, d) of a Gram matrix and the gradient (n, n) that flows into it."""
    generator = torch.Generator().manual_seed(n + d)
    x = images(n, d, generator)
    return Problem(x, (x,), cotangent=_symmetric(n, generator))


def make_stack(n: int, dims: Sequence[int]) -> Problem:
    """Variables (n, d_v) of a stack of Gram matrices and the gradient (m, n, n) that flows into it."""
    generator = torch.Generator().manual_seed(n + sum(dims))
    x = images(n, dims[0], generator)
    layers = (x, *(activations(x, d, generator) for d in dims[1:]))
    return Problem(x, layers, cotangent=torch.stack([_symmetric(n, generator) for _ in dims]))


def make_matrix(n: int) -> Problem:
    """Argument (n, n) of double centering and the gradient (n, n) that flows into it."""
    generator = torch.Generator().manual_seed(n)
    K = _symmetric(n, generator)
    return Problem(K, (K,), cotangent=_symmetric(n, generator))


def _symmetric(n: int, generator: torch.Generator) -> Tensor:
    a = torch.randn(n, n, generator=generator)
    return (a + a.T) / 2
