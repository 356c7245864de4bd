# SPDX-License-Identifier: Apache-2.0
"""PLG-MI's search: the noise of one class of the conditional generator, by max-margin on views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Positive, checked

from .gan import OWNER, PLG_GAN, PlgGan
from .loss import max_margin_loss
from .network import LATENT_DIM
from .views import DRAWS, view

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
class PlgConfig(SearchConfig):
    """How the noise is searched: the loss of a row is the sum of the max-margin losses of its views.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: of Adam.
        views: augmented views of the image in a step.
        restarts: independent starts per class.
    """

    steps: Count = 600
    lr: Positive = 0.1
    views: Count = 2
    restarts: Count = 5
    batch_size: Count = 60


def invert_plg(
    config: PlgConfig,
    target: nn.Module,
    gan: PlgGan,
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

    Raises:
        TypeError: ``target`` is a black box.
        ValueError: the GAN of another target, bad classes, a target that does not take the GAN's
            images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    generator = gan.generator
    work = Inversion("plg", "PLG-MI", config, target, classes, generator.shape, generator, how=how)
    OWNER.check_prior(gan, weights_digest(target), force_foreign_gan)
    if work.outputs != generator.num_classes:
        raise ValueError(
            f"target must have the {generator.num_classes} classes of its GAN, it has {work.outputs}"
        )
    found = work.search(lambda rows: PlgSearch(config, target, generator, rows, work.device))
    return work.collect(found["latents"], generator, conditional=True)


class PlgSearch(Search):
    """Adam on the noise of a conditional generator.

    Args:
        config: ``lr`` and ``views``.
        target: images -> logits.
    """

    def __init__(
        self, config: Any, target: Callable[[Tensor], Tensor], generator: nn.Module, rows: Rows,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.config, self.target, self.generator, self.rows = config, target, generator, rows
        self.labels = rows.wanted(device)
        self.latents = rows.starts(LATENT_DIM).to(next(generator.parameters())).requires_grad_()
        self.params = {"latents": self.latents}
        self.optimizer = torch.optim.Adam([self.latents], config.lr)

    def losses(self, step: int) -> Tensor:
        """See ``Search``."""
        images = self.generator(self.latents, self.labels)
        draws = self.rows.uniform("plg", step, self.config.views, DRAWS)
        seen = torch.cat([view(images, one) for one in draws.unbind(1)])
        each = self.margins(seen, self.labels.repeat(self.config.views))
        return each.view(self.config.views, -1).sum(0)

    def margins(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of each view (n,)."""
        return max_margin_loss(self.target(images), labels)


PLG = AttackSpec(
    "plg",
    "PLG-MI: a conditional GAN under the target's pseudo-labels, max-margin on augmented views "
    "(Yuan et al., AAAI 2023)",
    "white box",
    PlgConfig,
    invert_plg,
    PLG_GAN,
    presets={
        "quick": PlgConfig(steps=100, restarts=20, batch_size=100),
        "smoke": PlgConfig(steps=6, restarts=3),
    },
)
