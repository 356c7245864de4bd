# SPDX-License-Identifier: Apache-2.0
"""LOMMA with GMI's search and with KED-MI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bido_ext.lab.attacks.adversarial import Public
from bido_ext.lab.attacks.gan import WGAN, Gan
from bido_ext.lab.attacks.gmi import GmiConfig, GmiSearch
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.ked.gan import KED_GAN, OWNER, KedGan
from bido_ext.lab.attacks.ked.inversion import KedConfig, KedSearch, draw_samples
from bido_ext.lab.attacks.ranks import ALONE
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Positive, checked

from .loss import LogitLoss, WithFeatures
from .settings import LommaSettings
from .students import train_students

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
class LommaConfig(GmiConfig, LommaSettings):
    """GMI's search with LOMMA's identity loss: see ``GmiConfig`` and ``LommaSettings``."""

    steps: Count = 2400
    restarts: Count = 5


@checked
class LommaKedConfig(KedConfig, LommaSettings):
    """KED-MI's search with LOMMA's identity loss: see ``KedConfig`` and ``LommaSettings``.

    Attributes:
        logvar: where it starts; published: 1.
        clip: drawn latents are clamped to [-clip, clip], as published.
    """

    steps: Count = 2400
    logvar: float = 1.0
    clip: Positive = 1.0


def invert_lomma(
    config: LommaConfig,
    target: nn.Module,
    gan: Gan,
    classes: Sequence[int],
    *,
    public: Public,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with GMI's GAN.

    Args:
        target: images of the GAN's shape -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        public: the attacker's images, of the GAN's shape, for the students and the features.
        how: see ``How``.

    Raises:
        TypeError: ``target`` is a black box.
        ValueError: bad classes, a target that does not take the GAN's images or has no linear layer,
            unknown students, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    generator, images = gan.generator, _public(public, gan)
    work = Inversion(
        "lomma", "LOMMA", config, target, classes, generator.shape, generator, gan.critic,
        how=how, inputs={"public": images.sha256()},
    )  # fmt: skip
    loss = identity_loss(config, work, images)

    class LommaSearch(GmiSearch):
        def identity(self, images: Tensor) -> Tensor:
            return loss(images, self.labels)

    found = work.search(lambda rows: LommaSearch(config, target, gan, rows, work.device))
    return work.collect(found["latents"], generator)


def invert_lomma_ked(
    config: LommaKedConfig,
    target: nn.Module,
    gan: KedGan,
    classes: Sequence[int],
    *,
    public: Public,
    force_foreign_gan: bool = False,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with KED-MI's GAN of it.

    Args, errors: as of ``invert_lomma`` and ``invert_ked``.

    Returns:
        ``restarts * samples`` images of each class, the samples of a restart in a row.
    """
    generator, images = gan.generator, _public(public, gan)
    work = Inversion(
        "lomma-ked", "LOMMA", config, target, classes, generator.shape, generator,
        gan.discriminator, how=how, inputs={"public": images.sha256()},
    )  # fmt: skip
    OWNER.check_prior(gan, weights_digest(target), force_foreign_gan)
    loss = identity_loss(config, work, images)

    class LommaSearch(KedSearch):
        def identity(self, images: Tensor) -> Tensor:
            return loss(images, self.labels)

        def bounded(self, latents: Tensor) -> Tensor:
            return latents.clamp(-config.clip, config.clip)

    found = work.search(lambda rows: LommaSearch(config, target, gan, rows, work.device))
    latents = draw_samples(found["mu"], found["logvar"], work.rows, config.samples)
    latents = latents.clamp(-config.clip, config.clip)
    return work.collect(latents, generator, draws=config.samples)


def identity_loss(config: Any, work: Inversion, public: ImageSet) -> LogitLoss:
    """Distil the students, take the mean of the features."""
    how, target, device = work.how, work.target, work.device
    ranks = how.get("ranks", ALONE)

    def distil() -> list[nn.Module]:
        return train_students(
            config, target, public, work.outputs, seed=config.seed, digest=weights_digest(target),
            run_dir=how.get("run_dir"), resume=how.get("resume", True) or not ranks.leads,
            progress=how.get("progress", True) and ranks.leads, every=config.checkpoint_every,
            device=device,
        )  # fmt: skip

    students = ranks.leader_first(distil)
    if not config.lam:
        return LogitLoss(target, students, 0.0, None)
    seen = WithFeatures(target, public.shape, device)
    mean = seen.mean(public, config.regularised_by, config.seed, device)
    return LogitLoss(seen, students, config.lam, mean)


def _public(public: Public, gan: Any) -> ImageSet:
    images = public if isinstance(public, ImageSet) else ImageSet(public, None)
    if images.shape != tuple(gan.generator.shape):
        raise ValueError(
            f"public must be images of the GAN's shape {tuple(gan.generator.shape)}, got "
            f"{images.shape}"
        )
    return images


_QUICK: dict[str, Any] = {"student_steps": 200, "student_width": 0.5}
_SMOKE: dict[str, Any] = {
    "student_steps": 3,
    "student_batch": 8,
    "student_width": 0.1,
    "regularised_by": 20,
}

LOMMA = AttackSpec(
    "lomma",
    "LOMMA with GMI: minus the logit near public features, students of the target beside it "
    "(Nguyen et al., CVPR 2023)",
    "white box",
    LommaConfig,
    invert_lomma,
    WGAN,
    sees_public=True,
    presets={
        "quick": LommaConfig(steps=60, lr=3e-4, restarts=20, **_QUICK),
        "smoke": LommaConfig(steps=6, restarts=3, **_SMOKE),
    },
)

LOMMA_KED = AttackSpec(
    "lomma-ked",
    "LOMMA with KED-MI: the same loss on a Gaussian in the latents of the target's own GAN "
    "(Nguyen et al., CVPR 2023)",
    "white box",
    LommaKedConfig,
    invert_lomma_ked,
    KED_GAN,
    sees_public=True,
    presets={
        "quick": LommaKedConfig(steps=300, restarts=4, **_QUICK),
        "smoke": LommaKedConfig(steps=6, samples=3, **_SMOKE),
    },
)
