# SPDX-License-Identifier: Apache-2.0
"""The prior: a diffusion model of the public images alone; one serves the attacks on all targets."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bido_ext.lab.attacks.adversarial import AUTO, Public, check_public, drawn, ranges_of, train
from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.attacks.spec import PriorSpec
from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.augment import augmentation
from bido_ext.lab.training.checked import Count, Positive, Share, checked

from .network import UNet
from .process import mixed

_STATE = {"step": int, "seconds": float, "history": list, "optimizer": dict}
_STATE |= dict.fromkeys(("network", "average"), dict)


@checked
class DiffusionPriorConfig:
    """How the diffusion model is trained.

    Attributes:
        steps: of Adam.
        batch_size: public images in a step, each at a time of its own.
        lr: of Adam.
        average: the weights that are sampled with are a running mean of those of all steps, which
            keeps this share of itself in a step (less in the first ones).
        width: multiplies the channel counts of the network.
        patch: see ``UNet``.
        augment: of the public images, as of a GAN's training.
        checkpoint_every: steps between checkpoints.
    """

    steps: Count = 50_000
    batch_size: Count = 64
    lr: Positive = 2e-4
    average: Share = 0.999
    width: Positive = 1.0
    patch: Count = 1
    augment: str = AUTO
    seed: int = 0
    checkpoint_every: Count = 500

    def __post_init__(self) -> None:
        if self.augment != AUTO:
            augmentation(self.augment)


@dataclass
class DiffusionPrior:
    """A trained prior, in eval mode.

    Attributes:
        history: step and loss at every checkpoint.
        seconds: training time, earlier interrupted runs included.
    """

    generator: UNet
    history: list[dict[str, float]]
    seconds: float
    path: Path


def train_diffusion(
    config: DiffusionPriorConfig,
    public: Public,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> DiffusionPrior:
    """Train the network on ``public``; writes ``gan.pt``, as the priors of all attacks are called.

    Args:
        public: (n, channels, side, side) float32 in [0, 1], or an ``ImageSet``, no private image
            among them; 1 or 3 channels, a side of ``networks.SIDES``.
        resume: continue a run of the same configuration and images found in ``run_dir``.

    Raises:
        ValueError: wrong image shape, or ``run_dir`` holds another configuration or the prior of
            other images.
        FloatingPointError: the loss is no longer finite.
    """
    trainer = _Trainer(config, public, torch.device(device))
    inputs = {"kind": "diffusion"}
    path = train(
        trainer, run_dir, inputs=inputs, resume=resume, progress=progress, title="diffusion",
        entries=_STATE,
    )  # fmt: skip
    return DiffusionPrior(trainer.average, trainer.history, trainer.seconds, path)


class _Trainer:
    def __init__(self, config: DiffusionPriorConfig, public: Public, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shape = check_public(public)
        self.public = public if isinstance(public, ImageSet) else ImageSet(public, None)
        self.ranges = ranges_of(config.augment, self.shape)
        torch.manual_seed(config.seed)
        self.network = UNet(config.width, self.shape, config.patch).to(device)
        self.average = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.lr)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    def networks(self) -> list[torch.nn.Module]:
        """See ``adversarial.Training``."""
        return [self.network, self.average]

    def advance(self) -> None:
        """One step on a fresh batch, whose random numbers come from (seed, step) alone."""
        began, config = time.monotonic(), self.config
        random = torch.Generator().manual_seed(stream_seed(config.seed, "diffusion", self.step))
        images = drawn(self.public, self.ranges, config.batch_size, random)[0].to(self.device)
        noise = torch.randn(images.shape, generator=random).to(images)
        times = torch.rand(len(images), generator=random).to(images)
        x, v = mixed(2 * images - 1, noise, times)
        loss = F.mse_loss(self.network(x, times), v)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        share = min(config.average, self.step / (self.step + 9))
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        with torch.no_grad():
            for mean, value in pairs:
                mean.lerp_(value, 1 - share)
        self.seconds += time.monotonic() - began
        if self.step % config.checkpoint_every == 0 or self.step == config.steps:
            found = loss.item()
            if not math.isfinite(found):
                raise FloatingPointError(f"the diffusion's loss is {found} at step {self.step}")
            self.history.append({"step": self.step, "loss": found})

    def state(self) -> dict[str, Any]:
        """All that a later run needs to continue."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


DIFFUSION_PRIOR = PriorSpec(
    DiffusionPriorConfig,
    train_diffusion,
    presets={
        "quick": DiffusionPriorConfig(
            steps=1500, width=0.5, patch=2, lr=1e-3, average=0.99, checkpoint_every=100
        ),
        "smoke": DiffusionPriorConfig(steps=6, batch_size=16, width=0.1, patch=4),
    },
)
