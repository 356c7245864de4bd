# SPDX-License-Identifier: Apache-2.0
"""PLG-MI's prior: a GAN of one target, conditioned on the labels that the target gives public images.

The discriminator sees the generated images as they are, the target sees views of them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.adversarial import (
    AdversarialConfig,
    AdversarialTrainer,
    Public,
    check_public,
    train,
)
from bido_ext.lab.attacks.owned import OwnedGan, Owner
from bido_ext.lab.attacks.spec import PriorSpec
from bido_ext.lab.attacks.target import check_target, frozen, place
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Number, Share, Weight, checked

from .loss import hinge_loss, max_margin_loss
from .network import LATENT_DIM, ConditionalGenerator, ProjectionDiscriminator
from .pseudo import Pool, pseudo_labelled
from .views import DRAWS, view

OWNER = Owner("plg", "PLG-MI")


@checked
class PlgGanConfig(AdversarialConfig):
    """How PLG-MI's GAN is trained; see also ``AdversarialConfig``.

    Attributes:
        top_n: public images of each class.
        pool_views: augmented versions of every public image that may be among them beside itself;
            published: none.
        inversion_weight: weight of the max-margin loss of the target in the generator's.
    """

    steps: Count = 30_000
    beta1: Share = 0.0
    beta2: Share = 0.9
    top_n: Count = 30
    pool_views: Number = 1
    inversion_weight: Weight = 0.2


class PlgGan(OwnedGan):
    """A trained prior: a ``ConditionalGenerator`` and a ``ProjectionDiscriminator``."""


def train_plg_gan(
    config: PlgGanConfig,
    target: nn.Module,
    public: Public,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> PlgGan:
    """Train the GAN for ``target`` on ``public``; writes ``gan.pt`` into ``run_dir``.

    Args:
        target: images -> logits; put in eval mode, never trained.
        public: (n, channels, side, side) float32 in [0, 1], or an ``ImageSet``, no private image
            among them; 1 or 3 channels, a side of ``networks.SIDES``.
        resume: continue a run of the same configuration, images and target found in ``run_dir``.

    Raises:
        ValueError: wrong image shape, a target that does not take such images, too few of them, or
            ``run_dir`` holds another configuration or the GAN of another target or of other images.
        FloatingPointError: a loss is no longer finite.
    """
    device = torch.device(device)
    place(target, device=device)
    digest = weights_digest(target)
    if resume:
        OWNER.check(Path(run_dir), digest)
    with frozen(target):
        trainer = _Trainer(config, target, public, device)
        inputs = OWNER.inputs(digest, trainer.num_classes)
        path = train(trainer, run_dir, inputs=inputs, resume=resume, progress=progress)
    return PlgGan(trainer.generator, trainer.critic, digest, trainer.history, trainer.seconds, path)


def load_plg_gan(run_dir: Path | str) -> PlgGan:
    """The finished GAN in ``run_dir``, whichever target it was trained for.

    Raises:
        ValueError: no such file, another kind of file, or a training that is not finished.
    """
    return OWNER.load(run_dir, _networks, PlgGan)


def _networks(settings: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    classes, shape = settings["num_classes"], settings["shape"]
    generator = ConditionalGenerator(classes, settings["width"], shape)
    return generator, ProjectionDiscriminator(classes, settings["critic_width"], shape)


class _Trainer(AdversarialTrainer):
    generator: ConditionalGenerator
    critic: ProjectionDiscriminator
    config: PlgGanConfig
    latent_dim = LATENT_DIM

    def __init__(
        self, config: PlgGanConfig, target: nn.Module, public: Public, device: torch.device
    ) -> None:
        self.target = target
        self.num_classes = check_target(target, [0], check_public(public), device)
        super().__init__(config, public, device)

    @cached_property
    def labelled(self) -> ImageSet:
        """The pseudo-labelled images; a finished training needs none."""
        pool = Pool(self.public, self.ranges, self.config.pool_views, self.config.seed)
        return pseudo_labelled(pool, self.target, self.config.top_n, self.device)

    def build(self) -> None:
        width, narrow = self.config.width, self.config.critic_width
        self.generator = ConditionalGenerator(self.num_classes, width, self.shape)
        self.critic = ProjectionDiscriminator(self.num_classes, narrow, self.shape)

    def _labels(self, random: torch.Generator) -> Tensor:
        drawn = torch.randint(self.num_classes, (self.config.batch_size,), generator=random)
        return drawn.to(self.device)

    def critic_loss(self, random: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.labelled), (self.config.batch_size,), generator=random)
        real = self.labelled.batch(chosen).to(self.device)
        shown = self.critic(real, self.labelled.labels[chosen].to(self.device))
        wanted = self._labels(random)
        with torch.no_grad():
            fake = self.generator(self.latents(random), wanted)
        return hinge_loss(shown, self.critic(fake, wanted))

    def generator_loss(self, random: torch.Generator) -> Tensor:
        wanted = self._labels(random)
        fake = self.generator(self.latents(random), wanted)
        loss = -self.critic(fake, wanted).mean()
        if self.config.inversion_weight:
            seen = view(fake, torch.rand(len(fake), DRAWS, generator=random))
            margin = max_margin_loss(self.target(seen), wanted).mean()
            loss = loss + self.config.inversion_weight * margin
        return loss


PLG_GAN = PriorSpec(
    PlgGanConfig,
    train_plg_gan,
    of_target=True,
    check_owner=OWNER.check,
    load=load_plg_gan,
    presets={
        "quick": PlgGanConfig(
            steps=300, critic_steps=2, batch_size=32, width=0.25, critic_width=0.25, top_n=1000
        ),
        "smoke": PlgGanConfig(
            steps=6, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1, top_n=5
        ),
    },
)
