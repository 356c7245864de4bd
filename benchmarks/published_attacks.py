# SPDX-License-Identifier: Apache-2.0
"""The attack loops of the published BiDO experiments, rendered from their description.

One group of classes at a time, one restart after the other, the mean identity loss over the group,
and a backward pass through everything that requires a gradient: the networks' weights too, whose
gradients nobody uses.  ``frozen=True`` leaves those out, which a careful user would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_DIM = 100


@contextmanager
def gradients(networks: Sequence[nn.Module], frozen: bool) -> Iterator[None]:
    """Whether the weights of ``networks`` get gradients inside of the block."""
    for network in networks:
        network.requires_grad_(not frozen)
    yield
    for network in networks:
        network.requires_grad_(True)
        network.zero_grad(set_to_none=True)


def published_gmi(
    target: nn.Module,
    generator: nn.Module,
    critic: nn.Module,
    starts: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    frozen: bool = False,
) -> Tensor:
    """GMI from ``starts`` (restarts, group, 100): v' = 0.9 v - lr g, z += -0.9 v + 1.9 v', clamp."""
    found = []
    with gradients((target, generator, critic), frozen):
        for start in starts:
            z, v = start.clone().requires_grad_(), torch.zeros_like(start)
            for _ in range(steps):
                images = generator(z)
                prior, identity = -critic(images).mean(), F.cross_entropy(target(images), labels)
                for network in (target, generator, critic):
                    network.zero_grad()
                z.grad = None
                (prior + 100 * identity).backward()
                before = v
                v = 0.9 * v - lr * z.grad
                moved = z.detach() - 0.9 * before + 1.9 * v
                z = moved.clamp(-1, 1).requires_grad_()
            found.append(z.detach())
    return torch.stack(found)


def published_ked(
    target: nn.Module,
    generator: nn.Module,
    discriminator: nn.Module,
    labels: Tensor,
    *,
    steps: int,
    restarts: int,
    lr: float = 2e-2,
    frozen: bool = False,
) -> Tensor:
    """KED-MI's (mu, logvar) of one group, ``restarts`` times from the start; returns mu."""
    found = []
    with gradients((target, generator, discriminator), frozen):
        for restart in range(restarts):
            torch.manual_seed(restart)
            mu = torch.zeros(len(labels), LATENT_DIM, requires_grad=True)
            logvar = torch.zeros(len(labels), LATENT_DIM, requires_grad=True)
            adam = torch.optim.Adam([mu, logvar], lr)
            for _ in range(steps):
                images = generator(mu + (logvar / 2).exp() * torch.randn_like(mu))
                realness = discriminator(images).logsumexp(1)
                prior = (F.softplus(realness) - realness).mean()
                identity = F.cross_entropy(target(images), labels)
                for network in (target, generator, discriminator):
                    network.zero_grad()
                adam.zero_grad()
                (prior + 100 * identity).backward()
                adam.step()
            found.append(mu.detach())
    return torch.stack(found)
