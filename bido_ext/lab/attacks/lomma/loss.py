# SPDX-License-Identifier: Apache-2.0
"""LOMMA's identity loss, and the target's features that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.attacks.target import at_least_float32
from bido_ext.lab.data import ImageSet

BATCH = 256


class WithFeatures:
    """A network that tells its penultimate features too: what its last linear layer is given.

    Args:
        network: images -> logits.
        shape: (channels, height, width) of the images.
        instead: the setting that needs no features, for the error.

    Raises:
        ValueError: there is no linear layer of (n, features).
    """

    def __init__(
        self, network: nn.Module, shape: Sequence[int], device: torch.device,
        instead: str = "lam=0",
    ) -> None:  # fmt: skip
        self.network = network
        met: list[nn.Module] = []
        hooks = [
            module.register_forward_pre_hook(lambda layer, _: met.append(layer))
            for module in network.modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            with torch.no_grad():
                network(torch.zeros(2, *shape, device=device))
        finally:
            for hook in hooks:
                hook.remove()
        if not met:
            raise ValueError(
                f"target must end in a linear layer, whose input its features are; "
                f"{type(network).__name__} has none; give {instead}"
            )
        self.last = met[-1]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and features (n, features), the gradients of both intact."""
        seen: list[Tensor] = []

        def look(_: nn.Module, given: tuple[Any, ...]) -> None:
            seen.append(given[0].flatten(1))

        hook = self.last.register_forward_pre_hook(look)
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        return logits, at_least_float32(seen[-1])

    @torch.no_grad()
    def mean(self, public: ImageSet, count: int, seed: int, device: torch.device) -> Tensor:
        """Mean features (features,) of ``count`` public images, drawn without replacement."""
        random = torch.Generator().manual_seed(stream_seed(seed, "lomma features"))
        chosen = torch.randperm(len(public), generator=random)[:count]
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part in chosen.split(BATCH):
            total = total + self(public.batch(part).to(device))[1].double().sum(0)
        return (total / len(chosen)).float()


class LogitLoss:
    """See ``LommaSettings``.

    Args:
        target: with its features, or without where ``lam`` is 0.
        students: networks beside the target.
        lam: weight of the feature term.
        mean: (features,) of public images; None where ``lam`` is 0.
    """

    def __init__(
        self, target: Any, students: Sequence[nn.Module], lam: float, mean: Tensor | None
    ) -> None:
        self.target, self.students, self.lam, self.mean = target, students, lam, mean

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image (n,)."""
        away = 0.0
        if self.mean is None:
            logits = self.target(images)
        else:
            logits, features = self.target(images)
            away = self.lam * (features - self.mean).square().mean(1)
        told = [logits, *(student(images) for student in self.students)]
        wanted = [at_least_float32(each).gather(1, labels[:, None]).squeeze(1) for each in told]
        return away - torch.stack(wanted).mean(0)
