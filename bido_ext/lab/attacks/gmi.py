# SPDX-License-Identifier: Apache-2.0
"""GMI: search the generator's latents for images that the target assigns to a class.

Zhang et al., "The Secret Revealer" (CVPR 2020), in the form of the BiDO experiments: every
restart is kept and nothing is selected by the evaluation classifier.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.finite import check_finite

from .gan import Gan
from .networks import LATENT_DIM
from .result import Reconstructions, collect
from .rows import Rows
from .search import Keep, Search, run_search
from .settings import check_at_least, check_positive
from .target import check_target, place


@dataclass(frozen=True)
class GmiConfig:
    """How the latents are searched.

    The loss is the sum over restarts and classes of -critic(G(z)) + id_weight * cross-entropy, so
    no result depends on what else is attacked in the same call. The published code takes the mean
    over the classes attacked together: its lr divided by their number is ours (MNIST: 0.01 / 5,
    CelebA: 0.02 / 60).

    Attributes:
        steps: of momentum descent in z.
        lr, momentum: v' = momentum v - lr g; z += (1 + momentum) v' - momentum v, which is
            PyTorch's SGD with Nesterov momentum.
        id_weight: weight of the identity loss.
        clip: latents are clamped to [-clip, clip] after every step.
        restarts: independent starts per class; other seeds share none of them.
        batch_size: latents searched side by side.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 3000
    lr: float = 2e-3
    momentum: float = 0.9
    id_weight: float = 100.0
    clip: float = 1.0
    restarts: int = 100
    seed: int = 0
    batch_size: int = 256
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_finite(self)
        check_at_least(self, 1, "steps", "restarts", "batch_size", "checkpoint_every")
        check_positive(self, "lr", "clip")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        check_at_least(self, 0, "id_weight")


def invert(
    config: GmiConfig,
    target: nn.Module,
    gan: Gan,
    classes: Sequence[int],
    *,
    run_dir: Path | str | None = None,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Reconstructions:
    """Attack ``classes`` of ``target`` from ``config.restarts`` starts each.

    Args:
        target: images of the GAN's shape -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        run_dir: where ``latents.pt`` is kept to continue a killed run; ``None`` keeps nothing.
        resume: continue an attack of the same configuration, target and GAN found in ``run_dir``.

    Raises:
        ValueError: no classes, a label the target does not have, a target that does not take the
            GAN's images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    device, classes = torch.device(device), list(classes)
    place(target, gan.generator, gan.critic, device=device)
    outputs = check_target(target, classes, gan.generator.shape, device)
    rows = Rows.of(classes, config.restarts, outputs, config.seed)
    settings = {"attack": "gmi", **asdict(config), "classes": classes}
    if run_dir is not None:
        settings.update(target=weights_digest(target), generator=weights_digest(gan.generator))
    found = run_search(
        "GMI",
        lambda batch: _Gmi(config, target, gan, batch, device),
        rows,
        config.steps,
        config.batch_size,
        Keep(run_dir, settings, config.checkpoint_every, resume),
        progress,
    )
    return collect(
        found["latents"],
        gan.generator,
        target,
        classes,
        batch_size=config.batch_size,
        device=device,
    )


class _Gmi(Search):
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
        identity = F.cross_entropy(self.target(images), self.labels, reduction="none")
        return self.config.id_weight * identity - self.gan.critic(images)

    def constrain(self) -> None:
        self.latents.clamp_(-self.config.clip, self.config.clip)
