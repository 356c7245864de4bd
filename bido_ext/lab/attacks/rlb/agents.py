# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic for many rows side by side, each row with networks of its own.

Haarnoja et al., "Soft Actor-Critic" (ICML 2018). An episode is one step long, so no future reward is
discounted and the critics need no slowly moving copies: what they learn is the reward itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bido_ext.lab.attacks.rows import Rows

_LOG_STD = (-20.0, 2.0)
_EPS = 1e-6  # keeps the logarithm of the squashing's slope finite
_LAST = 3e-3  # first weights of a critic's last layer


class Agents:
    """One actor and two critics for each row.

    Args:
        rows: whose streams the first weights come from.
        dim: of states and actions.
        hidden: width of both hidden layers.
        lr: of Adam, for actor, critics and temperature.
        device: where they learn.
    """

    def __init__(self, rows: Rows, dim: int, hidden: int, lr: float, device: torch.device) -> None:
        self.dim = dim
        generators = rows.generators("rlb weights", 0)
        sizes = {"actor": (dim, hidden, hidden, 2 * dim)}
        sizes |= dict.fromkeys(("critic1", "critic2"), (2 * dim, hidden, hidden, 1))
        self.networks = {
            name: _drawn(layers, generators, device, _LAST if layers[-1] == 1 else None)
            for name, layers in sizes.items()
        }
        self.log_alpha = torch.zeros(len(rows), 1, device=device, requires_grad=True)
        critics = [*self.networks["critic1"], *self.networks["critic2"]]
        groups = (self.networks["actor"], critics, [self.log_alpha])
        self.optimizers = [torch.optim.Adam(group, lr) for group in groups]

    def act(self, states: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in (-1, 1) and their log-density, averaged over the dimensions as published.

        Args:
            states, eps: (rows, n, dim).

        Returns:
            (rows, n, dim) and (rows, n).
        """
        mean, log_std = _mlp(self.networks["actor"], states).chunk(2, 2)
        log_std = log_std.clamp(*_LOG_STD)
        action = (mean + eps * log_std.exp()).tanh()
        normal = -0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)
        return action, (normal - (1 - action.square() + _EPS).log()).mean(2)

    def value(self, critic: str, states: Tensor, actions: Tensor) -> Tensor:
        """What a critic expects of actions in states: (rows, n)."""
        return _mlp(self.networks[critic], torch.cat([states, actions], 2)).squeeze(2)

    def learn(self, states: Tensor, actions: Tensor, rewards: Tensor, eps: Tensor) -> None:
        """One update from a batch of each row's own memory.

        Args:
            states, actions, eps: (rows, n, dim).
            rewards: (rows, n).
        """
        errors = [
            0.5 * (self.value(critic, states, actions) - rewards).square().mean(1)
            for critic in ("critic1", "critic2")
        ]
        _descend(self.optimizers[1], torch.stack(errors).sum())
        drawn, log_density = self.act(states, eps)
        # The published target is minus the dimension beside a mean over dimensions: the temperature
        # falls all the way.
        pull = (log_density.detach() - self.dim).mean(1, keepdim=True)
        alpha = self.log_alpha.exp().detach()
        _descend(self.optimizers[2], -(self.log_alpha * pull).sum())
        gain = self.value("critic1", states, drawn)
        _descend(self.optimizers[0], (alpha * log_density - gain).mean(1).sum())

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {
            "networks": {
                name: [w.detach() for w in layers] for name, layers in self.networks.items()
            },
            "log_alpha": self.log_alpha.detach(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        with torch.no_grad():
            for name, layers in self.networks.items():
                for mine, saved in zip(layers, state["networks"][name], strict=True):
                    mine.copy_(saved)
            self.log_alpha.copy_(state["log_alpha"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _drawn(
    sizes: tuple[int, ...], generators: list[torch.Generator], device: torch.device,
    last: float | None,
) -> list[Tensor]:  # fmt: skip
    """Weights (rows, inputs, outputs) and shifts (rows, 1, outputs) of each layer, as PyTorch's."""
    made = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        limit = last if last is not None and i == len(sizes) - 2 else inputs**-0.5
        for shape in ((inputs, outputs), (1, outputs)):
            drawn = torch.stack([torch.rand(*shape, generator=random) for random in generators])
            made.append(((2 * drawn - 1) * limit).to(device).requires_grad_())
    return made


def _mlp(layers: list[Tensor], x: Tensor) -> Tensor:
    for i in range(0, len(layers), 2):
        x = torch.baddbmm(layers[i + 1], x, layers[i])
        if i < len(layers) - 2:
            x = x.relu()
    return x


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step for the optimiser's own tensors; what the loss passes on its way gathers nothing."""
    leaves = optimizer.param_groups[0]["params"]
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        leaf.grad = gradient
    optimizer.step()
