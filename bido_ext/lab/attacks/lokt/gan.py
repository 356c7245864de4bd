# SPDX-License-Identifier: Apache-2.0
"""LOKT's prior: a target-assisted auxiliary-classifier GAN (T-ACGAN) on public images.

The target labels what the generator makes; the discriminator learns those labels beside real from
made, and the generator makes what the discriminator takes for the wanted class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bido_ext.lab.attacks.adversarial import (
    AdversarialConfig,
    AdversarialTrainer,
    Public,
    check_public,
    train,
)
from bido_ext.lab.attacks.black_box import BlackBox
from bido_ext.lab.attacks.owned import OwnedGan, Owner
from bido_ext.lab.attacks.plg.network import LATENT_DIM, ConditionalGenerator
from bido_ext.lab.attacks.spec import PriorSpec
from bido_ext.lab.training.checked import Count, Number, Several, Share, Weight, checked

from .network import AuxiliaryDiscriminator

OWNER = Owner("lokt", "LOKT")


@checked
class LoktGanConfig(AdversarialConfig):
    """How the T-ACGAN is trained; see also ``AdversarialConfig``.

    Attributes:
        alone: first steps, in which the target is not asked and no class is learnt.
        class_weight: weight of the cross-entropy of the classes in both losses.
        budget: queries of the whole attack; 0: no limit.
        budget_share: part of them that the GAN may spend; the rest is for the surrogates.
    """

    steps: Count = 20_000
    batch_size: Several = 128
    beta1: Share = 0.0
    beta2: Share = 0.9
    alone: Number = 1000
    class_weight: Weight = 1.5
    budget: Number = 0
    budget_share: Annotated[float, Field(gt=0, lt=1)] = 0.8

    @property
    def asked(self) -> int:
        """Images that the target is asked about in a step of the discriminator after those alone.

        Raises:
            ValueError: the budget leaves less than one.
        """
        most = self._labelled_steps
        if not self.budget or not most:
            return self.batch_size
        fits = int(self.budget * self.budget_share) // most
        if fits < 1:
            raise ValueError(
                f"budget must leave a query to each of {most} steps of LOKT's discriminator, "
                f"{self.budget_share:g} of {self.budget} does not; lower steps or critic_steps of "
                "the prior"
            )
        return min(self.batch_size, fits)

    @property
    def queries(self) -> int:
        """Images that the target is asked about in the whole training."""
        return self._labelled_steps * self.asked

    @property
    def _labelled_steps(self) -> int:
        return max(self.steps - self.alone, 0) * self.critic_steps


class LoktGan(OwnedGan):
    """A trained prior: a ``ConditionalGenerator`` and an ``AuxiliaryDiscriminator``.

    Attributes:
        queries: images that the target was asked about.
    """

    queries: int = 0


def train_lokt_gan(
    config: LoktGanConfig,
    target: BlackBox,
    public: Public,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> LoktGan:
    """Train generator and discriminator on public images and the target's labels.

    Args:
        target: see ``BlackBox``; asked for labels alone, a network is refused.
        public: images (n, *shape) in [0, 1], or an ``ImageSet``, no private image among them; 1 or 3
            channels, a side of ``networks.SIDES``.
        resume: continue a run of the same configuration, images and target found in ``run_dir``.

    Raises:
        TypeError: ``target`` is a network.
        ValueError: wrong image shape, a target that does not take such images, a budget below one
            query a step, or ``run_dir`` holds another configuration or the GAN of another target or
            of other images.
        FloatingPointError: a loss or an answer is NaN.
    """
    if not isinstance(target, BlackBox):
        raise TypeError("target must be a BlackBox: a label only attack has no network")
    if resume:
        OWNER.check(Path(run_dir), target.digest)
    trainer = _Trainer(config, target, public, torch.device(device))
    inputs = OWNER.inputs(target.digest, trainer.num_classes)
    path = train(trainer, run_dir, inputs=inputs, resume=resume, progress=progress)
    made = LoktGan(
        trainer.generator, trainer.critic, target.digest, trainer.history, trainer.seconds, path
    )
    made.queries = config.queries
    return made


def load_lokt_gan(run_dir: Path | str) -> LoktGan:
    """The finished GAN in ``run_dir``, whichever target it was trained for.

    Raises:
        ValueError: no such file, another kind of file, or a training that is not finished.
    """
    told: dict[str, Any] = {}

    def networks(settings: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
        told.update(settings)
        classes, shape = settings["num_classes"], settings["shape"]
        generator = ConditionalGenerator(classes, settings["width"], shape)
        return generator, AuxiliaryDiscriminator(classes, settings["critic_width"], shape)

    made = OWNER.load(run_dir, networks, LoktGan)
    names = ("steps", "alone", "critic_steps", "batch_size", "budget", "budget_share")
    made.queries = LoktGanConfig(**{name: told[name] for name in names}).queries
    return made


class _Trainer(AdversarialTrainer):
    generator: ConditionalGenerator
    critic: AuxiliaryDiscriminator
    config: LoktGanConfig
    latent_dim = LATENT_DIM

    def __init__(
        self, config: LoktGanConfig, target: BlackBox, public: Public, device: torch.device
    ) -> None:
        self.target, self.asked = target, config.asked
        self.num_classes = target.outputs(check_public(public))
        super().__init__(config, public, device)

    def build(self) -> None:
        width, narrow = self.config.width, self.config.critic_width
        self.generator = ConditionalGenerator(self.num_classes, width, self.shape)
        self.critic = AuxiliaryDiscriminator(self.num_classes, narrow, self.shape)

    def _made(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        wanted = torch.randint(self.num_classes, (self.config.batch_size,), generator=random)
        wanted = wanted.to(self.device)
        return self.generator(self.latents(random), wanted), wanted

    def critic_loss(self, random: torch.Generator) -> Tensor:
        real = self.draw(random)[0]
        with torch.no_grad():
            fake = self._made(random)[0]
        score, logits = self.critic(fake)
        loss = F.softplus(score).mean() + F.softplus(-self.critic(real)[0]).mean()
        if self.step >= self.config.alone:
            answered = self.target.labels(fake[: self.asked])
            if bool((answered < 0).any()):
                raise FloatingPointError(f"the target's answer is NaN at GAN step {self.step + 1}")
            told = F.cross_entropy(logits[: self.asked], answered.to(self.device))
            loss = loss + self.config.class_weight * told
        return loss

    def generator_loss(self, random: torch.Generator) -> Tensor:
        fake, wanted = self._made(random)
        score, logits = self.critic(fake)
        loss = F.softplus(-score).mean()
        if self.step >= self.config.alone:
            loss = loss + self.config.class_weight * F.cross_entropy(logits, wanted)
        return loss


LOKT_GAN = PriorSpec(
    LoktGanConfig,
    train_lokt_gan,
    of_target=True,
    check_owner=OWNER.check,
    load=load_lokt_gan,
    presets={
        "quick": LoktGanConfig(
            steps=400,
            alone=200,
            critic_steps=1,
            batch_size=32,
            lr=5e-4,
            class_weight=0.3,
            width=0.25,
            critic_width=0.25,
        ),
        "smoke": LoktGanConfig(
            steps=6, alone=2, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1
        ),
    },
)
