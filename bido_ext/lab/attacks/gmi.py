# SPDX-License-Identifier: Apache-2.0
"""GMI: search the generator's latents for images that the target assigns to a class.

Zhang et al., "The Secret Revealer" (CVPR 2020), in the form of the BiDO experiments: every
restart is kept and nothing is selected by the evaluation classifier.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from bido_ext.lab.training.checked import Count, Positive, Share, Weight, checked

from .gan import WGAN, Gan
from .inversion import How, Inversion
from .networks import LATENT_DIM
from .result import Reconstructions
from .rows import Rows
from .search import Search
from .settings import SearchConfig
from .spec import AttackSpec


@checked
class GmiConfig(SearchConfig):
    """How the latents are searched.

    The loss is the sum over restarts and classes of -critic(G(z)) + id_weight * cross-entropy, so
    no result depends on what else is attacked in the same call. The published code takes the mean
    over the classes attacked together: its lr divided by their number is ours (MNIST: 0.01 / 5,
    CelebA: 0.02 / 60).

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: of momentum descent in z.
        lr, momentum: v' = momentum v - lr g; z += (1 + momentum) v' - momentum v, which is
            PyTorch's SGD with Nesterov momentum.
        id_weight: weight of the identity loss.
        clip: latents are clamped to [-clip, clip] after every step.
        restarts: independent starts per class; other seeds share none of them.
    """

    steps: Count = 3000
    lr: Positive = 2e-3
    momentum: Share = 0.9
    id_weight: Weight = 100.0
    clip: Positive = 1.0
    restarts: Count = 100
    batch_size: Count = 256


def invert(
    config: GmiConfig,
    target: nn.Module,
    gan: Gan,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` from ``config.restarts`` starts each.

    Args:
        target: images of the GAN's shape -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        how: see ``How``.

    Raises:
        ValueError: no classes, a label the target does not have, a target that does not take the
            GAN's images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    generator = gan.generator
    work = Inversion(
        "gmi", "GMI", config, target, classes, generator.shape, generator, gan.critic, how=how
    )
    found = work.search(lambda rows: GmiSearch(config, target, gan, rows, work.device))
    return work.collect(found["latents"], generator)


class GmiSearch(Search):
    """Momentum descent in z; subclasses may have another ``identity``."""

    def __init__(
        self, config: GmiConfig, target: nn.Module, gan: Gan, rows: Rows, device: torch.device
    ) -> None:
        self.config, self.target, self.gan, self.rows = config, target, gan, rows
        self.labels = rows.wanted(device)
        self.latents = rows.starts(LATENT_DIM).to(next(gan.generator.parameters()))
        self.latents.requires_grad_()
        self.params = {"latents": self.latents}
        self.optimizer = torch.optim.SGD(
            [self.latents], config.lr, config.momentum, nesterov=config.momentum > 0
        )

    def losses(self, step: int) -> Tensor:
        images = self.gan.generator(self.latents)
        return self.config.id_weight * self.identity(images) - self.gan.critic(images)

    def identity(self, images: Tensor) -> Tensor:
        """The identity loss of each row."""
        return F.cross_entropy(self.target(images), self.labels, reduction="none")

    def constrain(self) -> None:
        self.latents.clamp_(-self.config.clip, self.config.clip)


GMI = AttackSpec(
    "gmi",
    "generative model inversion: latent search under a WGAN-GP prior (Zhang et al., CVPR 2020)",
    "white box",
    GmiConfig,
    invert,
    WGAN,
    presets={
        "quick": GmiConfig(steps=60, lr=3e-3, restarts=40),
        "smoke": GmiConfig(steps=6, restarts=3),
    },
)
