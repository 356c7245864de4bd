# SPDX-License-Identifier: Apache-2.0
"""KED-MI's prior: a GAN whose discriminator also learns the target's labels of public images.

It belongs to one target: ``gan.pt`` holds the hash of that target's weights, and an attack on
another target is refused unless asked for.  The target is in eval mode throughout.  In the
published code it stays in training mode, so that its BatchNorm statistics drift while the GAN is
trained and the attacked model is no longer the one that was given.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.adversarial import (
    AdversarialConfig,
    AdversarialTrainer,
    Public,
    check_public,
    train,
)
from bido_ext.lab.attacks.networks import Generator
from bido_ext.lab.attacks.owned import OwnedGan, Owner
from bido_ext.lab.attacks.spec import PriorSpec
from bido_ext.lab.attacks.target import check_target, place
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Weight, checked

from .losses import (
    fakeness_loss,
    feature_matching,
    mean_entropy,
    realness_loss,
    soft_cross_entropy,
)
from .network import TargetDiscriminator

OWNER = Owner("ked", "KED-MI")
LABELLING_BATCH = 256


@checked
class KedGanConfig(AdversarialConfig):
    """How KED-MI's GAN is trained; see also ``AdversarialConfig``.

    Attributes:
        steps: default: the published 100 epochs of 30,000 public images.
        real_weight: weight of the unsupervised half of the discriminator's loss.
        entropy_weight: weight of the mean entropy of the generator's images. The published 1e-4
            multiplies the sum over a batch of 64; this is the same at any batch size.
    """

    steps: Count = 9_400
    real_weight: Weight = 0.5
    entropy_weight: Weight = 6.4e-3


class Start(Protocol):
    """What a training may start from: a public prior, such as GMI's ``Gan``."""

    generator: Any
    critic: Any


class KedGan(OwnedGan):
    """A trained prior: a ``Generator`` and a ``TargetDiscriminator``."""


def train_ked_gan(
    config: KedGanConfig,
    target: nn.Module,
    public: Public,
    run_dir: Path | str,
    *,
    start: Start | None = None,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> KedGan:
    """Train the GAN for ``target`` on ``public``; writes ``gan.pt`` into ``run_dir``.

    Args:
        target: images -> logits; put in eval mode, never trained.
        public: (n, channels, side, side) float32 in [0, 1], or an ``ImageSet``, no private image
            among them; 1 or 3 channels, a side of ``networks.SIDES``.
        start: public prior whose generator, and first convolutions of whose critic, the training
            starts from, so that a short one serves; None starts from random weights, as published.
        resume: continue a run of the same configuration, images, target and start found in
            ``run_dir``.

    Raises:
        ValueError: wrong image shape, a target that does not take such images, a start of another
            width or shape, or ``run_dir`` holds another configuration or the GAN of another target
            or of other images.
        FloatingPointError: a loss is no longer finite.
    """
    device = torch.device(device)
    place(target, device=device)
    digest = weights_digest(target)
    if resume:
        OWNER.check(Path(run_dir), digest)
    trainer = _Trainer(config, target, public, device)
    inputs = OWNER.inputs(digest, trainer.num_classes)
    inputs["start"] = None if start is None else trainer.start_from(start)
    path = train(trainer, run_dir, inputs=inputs, resume=resume, progress=progress)
    return KedGan(trainer.generator, trainer.critic, digest, trainer.history, trainer.seconds, path)


def load_ked_gan(run_dir: Path | str) -> KedGan:
    """The finished GAN in ``run_dir``, whichever target it was trained for.

    Raises:
        ValueError: no such file, another kind of file, or a training that is not finished.
    """
    return OWNER.load(run_dir, _networks, KedGan)


def _networks(settings: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    width, shape = settings["critic_width"], settings["shape"]
    discriminator = TargetDiscriminator(settings["num_classes"], width, shape)
    return Generator(settings["width"], shape), discriminator


class _Trainer(AdversarialTrainer):
    generator: Generator
    critic: TargetDiscriminator
    config: KedGanConfig

    def __init__(
        self, config: KedGanConfig, target: nn.Module, public: Public, device: torch.device
    ) -> None:
        self.target = target
        self.num_classes = check_target(target, [0], check_public(public), device)
        super().__init__(config, public, device)
        # Images that stay as they are need the target's opinion only once.
        self.opinions = None if self.ranges is not None else self._label_all()

    def build(self) -> None:
        self.generator = Generator(self.config.width, self.shape)
        self.critic = TargetDiscriminator(self.num_classes, self.config.critic_width, self.shape)

    def start_from(self, start: Start) -> str:
        """Take over the weights of ``start``; returns their digest."""
        mine, theirs = self.generator.state_dict(), start.generator.state_dict()
        shapes = [{name: value.shape for name, value in state.items()} for state in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"start must have a generator of width {self.config.width:g} for images "
                f"{self.shape}, as the GAN to be trained"
            )
        self.generator.load_state_dict(theirs)
        self.critic.start_from(start.critic)
        return weights_digest(start.generator) + weights_digest(start.critic)

    @torch.no_grad()
    def _opinion(self, images: Tensor) -> Tensor:
        return self.target(images).softmax(1)

    def _label_all(self) -> Tensor:
        parts = torch.arange(len(self.public)).split(LABELLING_BATCH)
        labelled = [self._opinion(self.public.batch(part).to(self.device)) for part in parts]
        return torch.cat([part.cpu() for part in labelled])

    def critic_loss(self, random: torch.Generator) -> Tensor:
        labelled, chosen = self.draw(random)
        unlabelled, _ = self.draw(random)
        opinion = (
            self._opinion(labelled)
            if self.opinions is None
            else self.opinions[chosen].to(self.device)
        )
        with torch.no_grad():
            fake = self.generator(self.latents(random))
        supervised = soft_cross_entropy(self.critic(labelled), opinion)
        real = realness_loss(self.critic(unlabelled)).mean()
        made = fakeness_loss(self.critic(fake)).mean()
        return supervised + self.config.real_weight * (real + made)

    def generator_loss(self, random: torch.Generator) -> Tensor:
        real, _ = self.draw(random)
        fake = self.generator(self.latents(random))
        with torch.no_grad():
            real_features = self.critic.features(real)
        matching = feature_matching(self.critic.features(fake), real_features)
        return matching + self.config.entropy_weight * mean_entropy(self.critic(fake))


KED_GAN = PriorSpec(
    KedGanConfig,
    train_ked_gan,
    of_target=True,
    check_owner=OWNER.check,
    load=load_ked_gan,
    presets={
        "quick": KedGanConfig(steps=1400, width=0.25, critic_width=0.25),
        "smoke": KedGanConfig(steps=6, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1),
    },
)
