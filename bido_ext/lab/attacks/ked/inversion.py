# SPDX-License-Identifier: Apache-2.0
"""KED-MI's inversion: a Gaussian in latent space for each class, found by reparametrised descent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.attacks.networks import LATENT_DIM
from bido_ext.lab.attacks.result import Reconstructions, collect, sample_major
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import Keep, Search, run_search
from bido_ext.lab.attacks.settings import check_at_least, check_positive
from bido_ext.lab.attacks.target import check_target, place
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.finite import check_finite

from .gan import KedGan, foreign
from .losses import realness_loss


@dataclass(frozen=True)
class KedConfig:
    """How the Gaussians are searched.

    Loss of a row: -log p(real) by the discriminator + id_weight * cross-entropy of the target, at
    z = mu + exp(logvar / 2) eps with a fresh eps every step. The discriminator sees each image
    alone: in the published code the classes attacked together enter each other's loss through
    minibatch discrimination. The latents are not clipped (nor are they in effect there).

    Attributes:
        steps: of Adam on (mu, logvar); published: 5000 with the BiDO experiments, 2400 originally.
        id_weight: weight of the identity loss.
        logvar: where logvar starts; mu starts at 0.
        restarts: independent searches per class (they differ by their eps).
        samples: images drawn from each found Gaussian; all are kept.
        batch_size: rows searched side by side.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 5000
    lr: float = 2e-2
    id_weight: float = 100.0
    logvar: float = 0.0
    restarts: int = 1
    samples: int = 5
    seed: int = 0
    batch_size: int = 128
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_finite(self)
        names = ("steps", "restarts", "samples", "batch_size", "checkpoint_every")
        check_at_least(self, 1, *names)
        check_at_least(self, 0, "id_weight")
        check_positive(self, "lr")


def invert_ked(
    config: KedConfig,
    target: nn.Module,
    gan: KedGan,
    classes: Sequence[int],
    *,
    force_foreign_gan: bool = False,
    run_dir: Path | str | None = None,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with the GAN that was trained for it.

    Args:
        target: images of the GAN's shape -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        force_foreign_gan: attack with a GAN that was trained for another target.
        run_dir: where ``latents.pt`` is kept to continue a killed run; ``None`` keeps nothing.
        resume: continue an attack of the same configuration, target and GAN found in ``run_dir``.

    Returns:
        ``restarts * samples`` images of each class, the samples of a restart in a row.

    Raises:
        ValueError: the GAN of another target, bad classes, a target that does not take the GAN's
            images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    device, classes = torch.device(device), list(classes)
    place(target, gan.generator, gan.discriminator, device=device)
    digest = weights_digest(target)
    if digest != gan.target and not force_foreign_gan:
        raise ValueError(foreign(gan.path, gan.target, digest))
    outputs = check_target(target, classes, gan.generator.shape, device)
    rows = Rows.of(classes, config.restarts, outputs, config.seed)
    settings = {"attack": "ked", **asdict(config), "classes": classes, "target": digest}
    settings.update(generator=weights_digest(gan.generator))
    found = run_search(
        "KED-MI",
        lambda batch: _Ked(config, target, gan, batch, device),
        rows,
        config.steps,
        config.batch_size,
        Keep(run_dir, settings, config.checkpoint_every, resume),
        progress,
    )
    latents = draw_samples(found["mu"], found["logvar"], rows, config.samples)
    return collect(
        latents, gan.generator, target, classes, batch_size=config.batch_size, device=device,
        draws=config.samples,
    )  # fmt: skip


def draw_samples(mu: Tensor, logvar: Tensor, rows: Rows, samples: int) -> Tensor:
    """``samples`` latents of each row's Gaussian: (restarts * samples * classes, dim)."""
    eps = rows.noise("ked sample", 0, samples, mu.shape[1])
    latents = mu[:, None] + (logvar / 2).exp()[:, None] * eps  # [restarts * classes, samples, dim]
    return sample_major(latents, len(set(rows.restarts)))


class _Ked(Search):
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
        images = self.gan.generator(self.mu + (self.logvar / 2).exp() * eps)
        identity = F.cross_entropy(self.target(images), self.labels, reduction="none")
        prior = realness_loss(self.gan.discriminator.alone(images))
        return prior + self.config.id_weight * identity
