# SPDX-License-Identifier: Apache-2.0
"""KED-MI's inversion: a Gaussian in latent space for each class, found by reparametrised descent."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.networks import LATENT_DIM
from bido_ext.lab.attacks.result import Reconstructions, sample_major
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Positive, Weight, checked

from .gan import KED_GAN, OWNER, KedGan
from .losses import realness_loss


@checked
class KedConfig(SearchConfig):
    """How the Gaussians are searched.

    Loss of a row: -log p(real) by the discriminator + id_weight * cross-entropy of the target, at
    z = mu + exp(logvar / 2) eps with a fresh eps every step. The discriminator sees each image
    alone: in the published code the classes attacked together enter each other's loss through
    minibatch discrimination. The latents are not clipped (nor are they in effect there).

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: of Adam on (mu, logvar); published: 5000 with the BiDO experiments, 2400 originally.
        id_weight: weight of the identity loss.
        logvar: where logvar starts; mu starts at 0.
        restarts: independent searches per class (they differ by their eps).
        samples: images drawn from each found Gaussian; all are kept.
    """

    steps: Count = 5000
    lr: Positive = 2e-2
    id_weight: Weight = 100.0
    logvar: float = 0.0
    restarts: Count = 1
    samples: Count = 5
    batch_size: Count = 128


def invert_ked(
    config: KedConfig,
    target: nn.Module,
    gan: KedGan,
    classes: Sequence[int],
    *,
    force_foreign_gan: bool = False,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with the GAN that was trained for it.

    Args:
        target: images of the GAN's shape -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        force_foreign_gan: attack with a GAN that was trained for another target.
        how: see ``How``.

    Returns:
        ``restarts * samples`` images of each class, the samples of a restart in a row.

    Raises:
        ValueError: the GAN of another target, bad classes, a target that does not take the GAN's
            images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    generator = gan.generator
    work = Inversion(
        "ked", "KED-MI", config, target, classes, generator.shape, generator, gan.discriminator,
        how=how,
    )  # fmt: skip
    OWNER.check_prior(gan, weights_digest(target), force_foreign_gan)
    found = work.search(lambda rows: KedSearch(config, target, gan, rows, work.device))
    latents = draw_samples(found["mu"], found["logvar"], work.rows, config.samples)
    return work.collect(latents, generator, draws=config.samples)


def draw_samples(mu: Tensor, logvar: Tensor, rows: Rows, samples: int) -> Tensor:
    """``samples`` latents of each row's Gaussian: (restarts * samples * classes, dim)."""
    eps = rows.noise("ked sample", 0, samples, mu.shape[1])
    latents = mu[:, None] + (logvar / 2).exp()[:, None] * eps  # [restarts * classes, samples, dim]
    return sample_major(latents, len(set(rows.restarts)))


class KedSearch(Search):
    """Reparametrised descent; subclasses may have another ``identity``, or bound the latents."""

    def __init__(
        self, config: KedConfig, target: nn.Module, gan: KedGan, rows: Rows, device: torch.device
    ) -> None:
        self.config, self.target, self.gan, self.rows = config, target, gan, rows
        self.labels = rows.wanted(device)
        weight = next(gan.generator.parameters())  # the latents take its device and its precision
        self.mu = weight.new_zeros(len(rows), LATENT_DIM).requires_grad_()
        self.logvar = torch.full_like(self.mu, config.logvar).requires_grad_()
        self.params = {"mu": self.mu, "logvar": self.logvar}
        self.optimizer = torch.optim.Adam([self.mu, self.logvar], config.lr)

    def losses(self, step: int) -> Tensor:
        eps = self.rows.noise("ked", step, LATENT_DIM).to(self.mu)
        images = self.gan.generator(self.bounded(self.mu + (self.logvar / 2).exp() * eps))
        prior = realness_loss(self.gan.discriminator.alone(images))
        return prior + self.config.id_weight * self.identity(images)

    def bounded(self, latents: Tensor) -> Tensor:
        """What the generator is given of the drawn latents: those themselves."""
        return latents

    def identity(self, images: Tensor) -> Tensor:
        """The identity loss of each row."""
        return F.cross_entropy(self.target(images), self.labels, reduction="none")


KED = AttackSpec(
    "ked",
    "KED-MI: a GAN distilled from the target, a Gaussian in its latents for each class "
    "(Chen et al., ICCV 2021)",
    "white box",
    KedConfig,
    invert_ked,
    KED_GAN,
    presets={"quick": KedConfig(steps=300, restarts=4), "smoke": KedConfig(steps=6, samples=3)},
)
