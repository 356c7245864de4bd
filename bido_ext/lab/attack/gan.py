# SPDX-License-Identifier: Apache-2.0
"""GMI's prior: a WGAN-GP trained on the public set alone (Gulrajani et al., 2017).

It does not depend on the target, so one GAN serves the attacks on all defences. Every step draws
its randomness from (seed, step) alone: a killed run continues to the same weights.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bido_ext.lab.checkpoint import resume_or_none, save_atomic
from bido_ext.lab.data.augment import augmentation, random_affine

from .networks import LATENT_DIM, Critic, Generator


@dataclass(frozen=True)
class GanConfig:
    """How the GAN is trained.

    Attributes:
        steps: generator steps, each after ``critic_steps`` critic steps (default: the published
            300 epochs of MNIST's 34,265 public digits).
        batch_size: images per step.
        lr, beta1, beta2: of Adam, both networks.
        penalty: weight of the gradient penalty.
        width, critic_width: multiply the channel counts of the published networks.
        augment: key of ``AUGMENTATIONS`` for the public images.
        checkpoint_every: generator steps between checkpoints.
    """

    steps: int = 32_100
    batch_size: int = 64
    critic_steps: int = 5
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    penalty: float = 10.0
    width: float = 1.0
    critic_width: float = 1.0
    augment: str = "public-digits"
    seed: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "critic_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        for name in ("lr", "width", "critic_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        augmentation(self.augment)


@dataclass
class Gan:
    """A trained prior, in eval mode.

    Attributes:
        history: generator step, critic loss and generator loss at every checkpoint.
        seconds: training time, earlier interrupted runs included.
    """

    generator: Generator
    critic: Critic
    history: list[dict[str, float]]
    seconds: float
    path: Path


def train_gan(
    config: GanConfig,
    public: Tensor,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Gan:
    """Train generator and critic on ``public``; writes ``gan.pt`` into ``run_dir``.

    Args:
        public: (n, 1, 32, 32) float32 in [0, 1], no private image among them.
        resume: continue a run of the same configuration found in ``run_dir``.

    Raises:
        ValueError: wrong image shape, or ``run_dir`` holds another configuration.
        FloatingPointError: a loss is no longer finite.
    """
    if public.ndim != 4 or public.shape[1:] != (1, 32, 32):
        raise ValueError(f"public must have shape (n, 1, 32, 32), got {tuple(public.shape)}")
    path = Path(run_dir) / "gan.pt"
    settings = {**asdict(config), "public_images": len(public)}
    trainer = _Trainer(config, public, torch.device(device))
    saved = resume_or_none(path, settings) if resume else None
    if saved is not None:
        trainer.load(saved)
    with tqdm(None, "GAN steps", config.steps, initial=trainer.step, disable=not progress) as bar:
        while trainer.step < config.steps:
            trainer.advance()
            bar.update()
            if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
                save_atomic({**trainer.state(), "settings": settings}, path)
    return Gan(
        trainer.generator.eval(), trainer.critic.eval(), trainer.history, trainer.seconds, path
    )


class _Trainer:
    """The state of one training: networks, optimisers, step."""

    def __init__(self, config: GanConfig, public: Tensor, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.public, self.device = config, public, device
        self.ranges = augmentation(config.augment)
        self.generator, self.critic = Generator(config.width), Critic(config.critic_width)
        for network in (self.generator, self.critic):
            network.to(device).to(memory_format=torch.channels_last)
        betas = (config.beta1, config.beta2)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), config.lr, betas)
            for network in (self.generator, self.critic)
        ]
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def advance(self) -> None:
        """``critic_steps`` critic steps and one generator step."""
        started = time.monotonic()
        config = self.config
        random = torch.Generator().manual_seed(config.seed * 10_000_019 + self.step)
        for _ in range(config.critic_steps):
            critic_loss = self._critic_loss(random)
            self._descend(1, critic_loss)
        self.critic.requires_grad_(False)
        generator_loss = -self.critic(self.generator(self._latents(random))).mean()
        self._descend(0, generator_loss)
        self.critic.requires_grad_(True)
        self.step += 1
        self.seconds += time.monotonic() - started
        if self.step % config.checkpoint_every == 0 or self.step == config.steps:
            losses = {"critic": critic_loss.item(), "generator": generator_loss.item()}
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(f"the GAN's losses are {losses} at step {self.step}")
            self.history.append({"step": self.step, **losses})

    def _latents(self, random: torch.Generator) -> Tensor:
        return torch.randn(self.config.batch_size, LATENT_DIM, generator=random).to(self.device)

    def _critic_loss(self, random: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.public), (self.config.batch_size,), generator=random)
        real = self.public[chosen]
        if self.ranges is not None:
            real = random_affine(real, self.ranges, random)
        real = real.to(self.device)
        with torch.no_grad():
            fake = self.generator(self._latents(random))
        share = torch.rand(len(real), 1, 1, 1, generator=random).to(self.device)
        mixed = torch.lerp(real, fake, share).requires_grad_()
        slope = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)[0]
        penalty = (slope.flatten(1).norm(dim=1) - 1.0).square().mean()
        distance = self.critic(fake).mean() - self.critic(real).mean()
        return distance + self.config.penalty * penalty

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()

    def state(self) -> dict[str, Any]:
        """All that a later run needs to continue."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
