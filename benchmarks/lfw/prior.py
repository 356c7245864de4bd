# SPDX-License-Identifier: Apache-2.0
"""The attacker's prior: one GAN of public faces, shared by every attack.

A non-saturating GAN with a lazy R1 penalty (Mescheder et al. 2018; every 16th step, as StyleGAN2)
instead of WGAN-GP: one critic step for each generator step, so that a CPU can train it.  The
generator that attacks is the running average of the trained one.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.lfw.networks import SHAPE
from benchmarks.lfw.protocol import as_float
from bido_ext.lab.attacks.networks import LATENT_DIM, Critic, Generator
from bido_ext.lab.models.checkpoint import resume_or_none
from bido_ext.lab.models.safe_save import save_atomic

CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class PriorConfig:
    """How the GAN is trained."""

    steps: int = 3000
    batch_size: int = 64
    lr: float = 5e-4
    width: float = 0.25
    penalty: float = 0.2
    penalty_every: int = 16
    average: float = 0.995
    seed: int = 0


class Prior:
    """Averaged generator and critic in evaluation mode, and the training time."""

    def __init__(self, generator: nn.Module, critic: nn.Module, seconds: float) -> None:
        self.generator, self.critic, self.seconds = generator.eval(), critic.eval(), seconds


def train_prior(config: PriorConfig, public: Tensor, run_dir: Path) -> Prior:
    """Train on public uint8 images; continues what it finds in ``run_dir``."""
    path, settings = run_dir / "prior.pt", {**asdict(config), "images": len(public)}
    del settings["steps"]  # a longer training continues a shorter one
    torch.manual_seed(config.seed)
    generator, critic = Generator(config.width, SHAPE), Critic(config.width, SHAPE)
    for network in (generator, critic):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(
        generator, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True
    )
    optimizers = [
        torch.optim.Adam(network.parameters(), config.lr, (0.5, 0.99))
        for network in (generator, critic)
    ]
    parts: dict[str, Any] = {
        "generator": generator,
        "critic": critic,
        "averaged": averaged,
        "optimizer_g": optimizers[0],
        "optimizer_c": optimizers[1],
    }
    step, seconds = 0, 0.0
    if (saved := resume_or_none(path, settings)) is not None:
        step, seconds = saved["step"], saved["seconds"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    while step < config.steps:
        began = time.monotonic()
        losses = _step(config, step, public, generator, critic, optimizers)
        averaged.update_parameters(generator)
        step, seconds = step + 1, seconds + time.monotonic() - began
        if step % CHECKPOINT_EVERY == 0 or step == config.steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_atomic({**state, "step": step, "seconds": seconds, "settings": settings}, path)
            print(f"prior: step {step}/{config.steps}, {seconds:.0f} s, {losses}", flush=True)
    return Prior(averaged.module, critic, seconds)


def _step(
    config: PriorConfig,
    step: int,
    public: Tensor,
    generator: nn.Module,
    critic: nn.Module,
    optimizers: list[torch.optim.Adam],
) -> str:
    random = torch.Generator().manual_seed(config.seed * 10_000_019 + step)
    chosen = torch.randint(len(public), (config.batch_size,), generator=random)
    real = as_float(public[chosen])
    mirrored = torch.rand(len(real), 1, 1, 1, generator=random) < 0.5
    real = torch.where(mirrored, real.flip(3), real)
    regularised = step % config.penalty_every == 0
    real.requires_grad_(regularised)
    with torch.autocast("cpu", torch.bfloat16):
        fake = generator(torch.randn(config.batch_size, LATENT_DIM, generator=random))
        on_fake = critic(fake.detach()).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=not regularised):  # slopes in float32
        on_real = critic(real).float()
    critic_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
    total = critic_loss
    if regularised:
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        weight = config.penalty / 2 * config.penalty_every
        total = total + weight * slope.square().sum((1, 2, 3)).mean()
    optimizers[1].zero_grad(set_to_none=True)
    total.backward()
    optimizers[1].step()
    critic.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        generator_loss = F.softplus(-critic(fake).float()).mean()
    optimizers[0].zero_grad(set_to_none=True)
    generator_loss.backward()
    optimizers[0].step()
    critic.requires_grad_(True)
    return f"critic {critic_loss.item():.3f}, generator {generator_loss.item():.3f}"
