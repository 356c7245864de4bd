# SPDX-License-Identifier: Apache-2.0
"""A small normalising flow: actnorm, a fixed permutation and an affine coupling, several times.

Dinh et al., "Density estimation using Real NVP" (ICLR 2017); Kingma and Dhariwal, "Glow" (NeurIPS
2018).  The published attack takes Glow with additive couplings and learned permutations; affine
couplings with fixed permutations are as expressive here and keep every step elementwise or a
matrix product, so that flows of many classes run as one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_LOG_SCALE = 1.0  # of one coupling; keeps exp() tame


class Coupling(nn.Module):
    """One step: x -> permuted actnorm(x), whose second half is scaled and shifted by the first.

    Args:
        dim: width of x, at least 2.
        hidden: width of the conditioner.
        random: draws the permutation and the conditioner's first layer.
    """

    order: Tensor

    def __init__(self, dim: int, hidden: int, random: torch.Generator) -> None:
        super().__init__()
        self.given = dim // 2
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        first = torch.randn(hidden, self.given, generator=random) / self.given**0.5
        self.first_weight, self.first_bias = nn.Parameter(first), nn.Parameter(torch.zeros(hidden))
        # Zeros: the untrained step changes nothing but the order, so the posterior starts at the
        # prior.
        rest = 2 * (dim - self.given)
        self.last_weight = nn.Parameter(torch.zeros(rest, hidden))
        self.last_bias = nn.Parameter(torch.zeros(rest))
        self.register_buffer("order", torch.randperm(dim, generator=random))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = (x * self.log_scale.exp() + self.shift)[..., self.order]
        given, rest = x[..., : self.given], x[..., self.given :]
        log_scale, shift = self._condition(given)
        moved = torch.cat([given, rest * log_scale.exp() + shift], -1)
        return moved, log_scale.sum(-1) + self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        """The x that ``forward`` takes to y."""
        given, rest = y[..., : self.given], y[..., self.given :]
        log_scale, shift = self._condition(given)
        x = torch.cat([given, (rest - shift) * (-log_scale).exp()], -1)
        x = x[..., self.order.argsort()]
        return (x - self.shift) * (-self.log_scale).exp()

    def _condition(self, given: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(F.linear(given, self.first_weight, self.first_bias))
        raw, shift = F.linear(hidden, self.last_weight, self.last_bias).chunk(2, -1)
        return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE), shift


class CouplingFlow(nn.Module):
    """Noise (..., dim) -> (z, log |det dz/deps|), invertible; untrained it only permutes.

    Args:
        dim: width, at least 2.
        couplings: how many steps.
        hidden: width of the conditioners.
        seed: of permutations and initial weights.

    Raises:
        ValueError: a size below its least.
    """

    def __init__(self, dim: int, couplings: int, hidden: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (
            ("dim", dim, 2),
            ("couplings", couplings, 1),
            ("hidden", hidden, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        random = torch.Generator().manual_seed(seed)
        self.steps = nn.ModuleList(Coupling(dim, hidden, random) for _ in range(couplings))

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = eps, eps.new_zeros(eps.shape[:-1])
        for step in self.steps:
            z, added = step(z)
            log_det = log_det + added
        return z, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The noise that ``forward`` takes to z."""
        for step in reversed(self.steps):
            z = step.inverse(z)  # type: ignore[operator]
        return z


def kl_to_standard_normal(eps: Tensor, z: Tensor, log_det: Tensor) -> Tensor:
    """log q(z) - log N(z; 0, I) of samples z = flow(eps), whose mean is KL(q || N(0, I)), (...,).

    log q(z) = log N(eps; 0, I) - log_det; the normal densities' constants cancel.
    """
    return (z.square() - eps.square()).sum(-1) / 2 - log_det
