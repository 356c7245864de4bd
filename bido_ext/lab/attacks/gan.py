# SPDX-License-Identifier: Apache-2.0
"""GMI's prior: a WGAN-GP trained on the public set alone (Gulrajani et al., 2017).

It does not depend on the target, so one GAN serves the attacks on all defences.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bido_ext.lab.training.checked import Count, Weight, checked

from .adversarial import AdversarialConfig, AdversarialTrainer, Public, train
from .networks import Critic, Generator
from .spec import PriorSpec


@checked
class GanConfig(AdversarialConfig):
    """How the WGAN-GP is trained; see also ``AdversarialConfig``.

    Attributes:
        steps: default: the published 300 epochs of MNIST's 34,265 public digits.
        penalty: weight of the gradient penalty.
    """

    steps: Count = 32_100
    penalty: Weight = 10.0


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
    public: Public,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Gan:
    """Train generator and critic on ``public``; writes ``gan.pt`` into ``run_dir``.

    Args:
        public: (n, channels, side, side) float32 in [0, 1], or an ``ImageSet``, no private image
            among them; 1 or 3 channels, a side of ``networks.SIDES``.
        resume: continue a run of the same configuration and images found in ``run_dir``.

    Raises:
        ValueError: wrong image shape, or ``run_dir`` holds another configuration or the GAN of
            other images.
        FloatingPointError: a loss is no longer finite.
    """
    trainer = _Trainer(config, public, torch.device(device))
    path = train(trainer, run_dir, inputs={}, resume=resume, progress=progress)
    return Gan(trainer.generator, trainer.critic, trainer.history, trainer.seconds, path)


class _Trainer(AdversarialTrainer):
    generator: Generator
    critic: Critic
    config: GanConfig

    def build(self) -> None:
        self.generator = Generator(self.config.width, self.shape)
        self.critic = Critic(self.config.critic_width, self.shape)

    def critic_loss(self, random: torch.Generator) -> Tensor:
        real, _ = self.draw(random)
        with torch.no_grad():
            fake = self.generator(self.latents(random))
        share = torch.rand(len(real), 1, 1, 1, generator=random).to(self.device)
        mixed = torch.lerp(real, fake, share).requires_grad_()
        slope = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)[0]
        penalty = (slope.flatten(1).norm(dim=1) - 1.0).square().mean()
        distance = self.critic(fake).mean() - self.critic(real).mean()
        return distance + self.config.penalty * penalty

    def generator_loss(self, random: torch.Generator) -> Tensor:
        return -self.critic(self.generator(self.latents(random))).mean()


WGAN = PriorSpec(
    GanConfig,
    train_gan,
    presets={
        "quick": GanConfig(steps=1400, width=0.25, critic_width=0.25),
        "smoke": GanConfig(steps=6, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1),
    },
)
