# SPDX-License-Identifier: Apache-2.0
"""Training of a generator against a critic, resumable: what every GAN of the attacks shares.

``train`` serves other priors too.

Each step draws its randomness from (seed, step) alone, so a killed run continues to the same
weights.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.augment import AffineRange, augmentation, random_affine
from bido_ext.lab.models.checkpoint import resume_or_none
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.training.checked import Count, Positive, Several, Share, checked

from .networks import LATENT_DIM, check_shape

FILE = "gan.pt"
# What a training continues from.
STATE = {"step": int, "seconds": float, "history": list, "optimizers": list}
STATE |= dict.fromkeys(("generator", "critic"), dict)
AUTO = "auto"
Public = Tensor | ImageSet  # images alone; a set of bytes on disk is converted batch by batch


@checked
class AdversarialConfig:
    """How a GAN is trained.

    Attributes:
        steps: generator steps, each after ``critic_steps`` critic steps.
        batch_size: images per step.
        lr, beta1, beta2: of Adam, both networks.
        width, critic_width: multiply the channel counts of the published networks.
        augment: key of ``AUGMENTATIONS`` for the public images; "auto" is "public-digits" for grey
            images and "none" for colour.
        checkpoint_every: generator steps between checkpoints.
    """

    steps: Count
    batch_size: Several = 64
    critic_steps: Count = 5
    lr: Positive = 2e-4
    beta1: Share = 0.5
    beta2: Share = 0.999
    width: Positive = 1.0
    critic_width: Positive = 1.0
    augment: str = AUTO
    seed: int = 0
    checkpoint_every: Count = 200

    def __post_init__(self) -> None:
        if self.augment != AUTO:
            augmentation(self.augment)


class AdversarialTrainer(ABC):
    """The state of one training: networks, optimisers, step.

    Subclasses build ``generator`` and ``critic`` and state their losses; ``latent_dim`` is that of
    GMI's generator unless they say otherwise.
    """

    generator: nn.Module
    critic: nn.Module
    latent_dim = LATENT_DIM

    def __init__(self, config: AdversarialConfig, public: Public, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.shape = check_public(public)
        self.public = public if isinstance(public, ImageSet) else ImageSet(public, None)
        self.ranges = ranges_of(config.augment, self.shape)
        self.build()
        for network in (self.generator, self.critic):
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        betas = (config.beta1, config.beta2)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), config.lr, betas)
            for network in (self.generator, self.critic)
        ]
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    @abstractmethod
    def build(self) -> None:
        """Set ``generator`` and ``critic`` for images of ``self.shape``."""

    @abstractmethod
    def critic_loss(self, random: torch.Generator) -> Tensor:
        """What the critic descends, on a fresh batch."""

    @abstractmethod
    def generator_loss(self, random: torch.Generator) -> Tensor:
        """What the generator descends, on a fresh batch."""

    def advance(self) -> None:
        """``critic_steps`` critic steps and one generator step."""
        started = time.monotonic()
        config = self.config
        random = torch.Generator().manual_seed(config.seed * 10_000_019 + self.step)
        for _ in range(config.critic_steps):
            critic_loss = self.critic_loss(random)
            self._descend(1, critic_loss)
        self.critic.requires_grad_(False)
        generator_loss = self.generator_loss(random)
        self._descend(0, generator_loss)
        self.critic.requires_grad_(True)
        self.step += 1
        self.seconds += time.monotonic() - started
        if self.step % config.checkpoint_every == 0 or self.step == config.steps:
            losses = {"critic": critic_loss.item(), "generator": generator_loss.item()}
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(f"the GAN's losses are {losses} at step {self.step}")
            self.history.append({"step": self.step, **losses})

    def draw(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch of public images, augmented, and their row numbers in ``public``."""
        real, chosen = drawn(self.public, self.ranges, self.config.batch_size, random)
        return real.to(self.device), chosen

    def networks(self) -> list[nn.Module]:
        """What is trained."""
        return [self.generator, self.critic]

    def latents(self, random: torch.Generator) -> Tensor:
        """A batch of standard normal latents."""
        return torch.randn(self.config.batch_size, self.latent_dim, generator=random).to(
            self.device
        )

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


class Training(Protocol):
    """What ``train`` runs: an ``AdversarialTrainer`` or the like."""

    config: Any
    shape: tuple[int, int, int]
    public: ImageSet
    step: int

    def advance(self) -> None:
        """One step; ``step`` counts them."""

    def networks(self) -> list[nn.Module]:
        """What is trained."""

    def state(self) -> dict[str, Any]:
        """All that a later run needs to continue."""

    def load(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""


def train(
    trainer: Training,
    run_dir: Path | str,
    *,
    inputs: Mapping[str, Any],
    resume: bool,
    progress: bool,
    title: str = "GAN",
    entries: Mapping[str, type] = STATE,
) -> Path:
    """Run ``trainer`` to its last step, with checkpoints in ``run_dir``; networks end in eval mode.

    Args:
        inputs: what the outcome depends on beside the configuration and the public images, plain
            values.
        resume: continue a run of the same configuration, images and inputs found in ``run_dir``.
        title: in the progress bar.
        entries: what a checkpoint has.

    Returns:
        The checkpoint.

    Raises:
        ValueError: ``run_dir`` holds another configuration, or the GAN of other images.
        FloatingPointError: a loss is no longer finite.
    """
    path, config = Path(run_dir) / FILE, trainer.config
    settings = {
        **asdict(config),
        "shape": list(trainer.shape),
        "public_images": len(trainer.public),
        "public_sha256": trainer.public.sha256(),
        **inputs,
    }
    saved = resume_or_none(path, settings, entries) if resume else None
    if saved is not None:
        trainer.load(saved)
    bar = tqdm(None, f"{title} steps", config.steps, initial=trainer.step, disable=not progress)
    with bar:
        while trainer.step < config.steps:
            trainer.advance()
            bar.update()
            if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
                save_atomic({**trainer.state(), "settings": settings}, path)
    for network in trainer.networks():
        network.eval()
    return path


def ranges_of(augment: str, shape: tuple[int, int, int]) -> AffineRange | None:
    """What ``AdversarialConfig.augment`` means for images of ``shape``.

    Raises:
        ValueError: an unknown name.
    """
    automatic = "public-digits" if shape[0] == 1 else "none"
    return augmentation(automatic if augment == AUTO else augment)


def drawn(
    public: ImageSet, ranges: AffineRange | None, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``count`` images of ``public``, augmented, on the CPU, and their positions in it."""
    chosen = torch.randint(len(public), (count,), generator=random)
    real = public.batch(chosen)
    return (real if ranges is None else random_affine(real, ranges, random)), chosen


def check_public(public: Public) -> tuple[int, int, int]:
    """The shape of one public image.

    Raises:
        ValueError: not (n, channels, side, side), or a shape the networks do not make.
    """
    try:
        return check_shape(public.shape if isinstance(public, ImageSet) else public.shape[1:])
    except ValueError as error:
        raise ValueError(f"public must be (n, *shape): {error}") from None
