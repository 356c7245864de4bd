# SPDX-License-Identifier: Apache-2.0
"""LOKT's search: PLG-MI's, on surrogates that learnt the target's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.black_box import BlackBox
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.plg.inversion import PlgConfig, PlgSearch
from bido_ext.lab.attacks.plg.loss import max_margin_loss
from bido_ext.lab.attacks.ranks import ALONE
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.attacks.surrogates import FILE, Distillation, distil, names_of
from bido_ext.lab.attacks.target import place
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.lab.training.checked import Count, Number, Positive, Several, Share, Weight, checked

from .gan import LOKT_GAN, OWNER, LoktGan
from .labelled import FILE as LABELS
from .labelled import Labelled
from .network import ClassHead

if TYPE_CHECKING:
    from typing_extensions import Unpack

CRITIC = "critic"
PUBLISHED = tuple(f"torchvision/densenet{depth}" for depth in (121, 161, 169))


@checked
class LoktConfig(PlgConfig):
    """How surrogates learn, and how the noise is searched on them: see ``PlgConfig``.

    Attributes:
        surrogates: networks, comma-separated: names of ``bido list models``, ``small-N`` with N
            stages of convolution at each size, or "critic", the discriminator's own classes; "auto":
            published densenet121, 161, 169 for colour images from 64 pixels on, small-1, small-2,
            small-3 otherwise.
        labelled: images of each class that the target labels for them.
        surrogate_steps: of SGD; default: published 200 times 30,000 images.
        surrogate_lr, surrogate_momentum, surrogate_decay: of SGD; the rate falls along a cosine.
        surrogate_batch: images in a step, each as it is and in an augmented view.
        surrogate_width: scales the channel counts of ``small-N``.
        budget: queries of the whole attack, those of its GAN included; 0: no limit.
    """

    surrogates: str = "auto"
    labelled: Count = 500
    surrogate_steps: Count = 23_400
    surrogate_lr: Positive = 0.1
    surrogate_momentum: Share = 0.9
    surrogate_decay: Weight = 5e-4
    surrogate_batch: Several = 256
    surrogate_width: Positive = 1.0
    budget: Number = 0


def invert_lokt(
    config: LoktConfig,
    target: BlackBox,
    gan: LoktGan,
    classes: Sequence[int],
    *,
    force_foreign_gan: bool = False,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` by its labels, with the GAN that was trained by them.

    Args:
        target: see ``BlackBox``; asked for labels alone, a network is refused.
        classes: labels of the target to reconstruct.
        force_foreign_gan: attack with a GAN that was trained for another target.
        how: see ``How``.

    Returns:
        With ``queries``, those of the GAN's training among them; ``target_confidence`` is 1 where
        the target gives the wanted label, else 0.

    Raises:
        TypeError: ``target`` is a network.
        ValueError: the GAN of another target, bad classes, unknown surrogates, a budget that the
            GAN has spent, or ``run_dir`` holds another run.
        FloatingPointError: an answer is NaN, or a loss no longer finite.
    """
    generator = gan.generator
    work = Inversion(
        "lokt", "LOKT", config, target, classes, generator.shape, generator, gan.discriminator,
        how=how, access="label only", inputs={"critic": weights_digest(gan.discriminator)},
    )  # fmt: skip
    OWNER.check_prior(gan, target.digest, force_foreign_gan)
    if work.outputs != generator.num_classes:
        raise ValueError(
            f"target must have the {generator.num_classes} classes of its GAN, it has {work.outputs}"
        )
    names = names_of(config.surrogates, generator.shape, PUBLISHED)
    count = 0
    if set(names) != {CRITIC}:
        count = images_of_each_class(config, gan.queries, len(work.rows), work.outputs)
    networks = _surrogates(config, names, work, gan, count)
    found = work.search(lambda rows: _Lokt(config, networks, generator, rows, work.device))
    asked = gan.queries + count * work.outputs
    return work.collect(
        found["latents"], generator, conditional=True, queries=torch.tensor([asked])
    )


def images_of_each_class(config: LoktConfig, spent: int, searches: int, num_classes: int) -> int:
    """How many made images of each class the target labels.

    Args:
        spent: queries of the GAN.
        searches: one query of each is kept for the last look at what it found.

    Raises:
        ValueError: the budget leaves none.
    """
    if not config.budget:
        return config.labelled
    left = (config.budget - spent - searches) // num_classes
    if left < 1:
        raise ValueError(
            f"budget must be above {spent + searches + num_classes - 1}: {spent} queries for the "
            f"GAN, {searches} for a last look, one for each class; got {config.budget}"
        )
    return min(config.labelled, left)


def _surrogates(
    config: LoktConfig, names: Sequence[str], work: Inversion, gan: LoktGan, count: int
) -> list[nn.Module]:
    how, shape = work.how, gan.generator.shape
    learnt = tuple(name for name in names if name != CRITIC)
    critic = ClassHead(gan.discriminator) if CRITIC in names else None
    ranks, run_dir = how.get("ranks", ALONE), how.get("run_dir")
    folder = None if run_dir is None else Path(run_dir)
    resume = how.get("resume", True) or not ranks.leads
    labelled_by: dict[str, Any] = {
        "labelled": count,
        "seed": config.seed,
        "target": work.target.digest,
        "generator": weights_digest(gan.generator),
    }
    of_surrogates = {
        name: value for name, value in asdict(config).items() if name.startswith("surrogate")
    }

    def learn() -> list[nn.Module]:
        if not learnt:
            return []
        pairs = Labelled(gan.generator, count, config.seed, work.device)
        labels = None if folder is None else folder / LABELS
        pairs.ask(work.target, config.surrogate_batch, labels, labelled_by, resume)
        training = Distillation(
            learnt, config.surrogate_steps, config.surrogate_lr, config.surrogate_momentum,
            config.surrogate_decay, cosine=True, width=config.surrogate_width,
        )  # fmt: skip
        return distil(
            training, lambda random: pairs.draw(config.surrogate_batch, random), work.outputs,
            shape, seed=config.seed, inputs={**labelled_by, **of_surrogates},
            path=None if folder is None else folder / FILE, resume=resume,
            progress=how.get("progress", True) and ranks.leads, every=config.checkpoint_every,
            device=work.device,
        )  # fmt: skip

    students = ranks.leader_first(learn)
    networks = [*students, *([critic] if critic is not None else [])]
    place(*networks, device=work.device)
    return networks


class _Lokt(PlgSearch):
    """PLG-MI's search on several networks, the mean of their losses."""

    def __init__(
        self, config: LoktConfig, networks: Sequence[nn.Module], generator: nn.Module, rows: Any,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(config, networks[0], generator, rows, device)
        self.networks = networks

    def margins(self, images: Tensor, labels: Tensor) -> Tensor:
        """See ``PlgSearch``."""
        each = [max_margin_loss(network(images), labels) for network in self.networks]
        return torch.stack(each).mean(0)


LOKT = AttackSpec(
    "lokt",
    "LOKT: PLG-MI's search on surrogates that learnt the labels of a target-assisted GAN's images "
    "(Nguyen et al., NeurIPS 2023)",
    "label only",
    LoktConfig,
    invert_lokt,
    LOKT_GAN,
    presets={
        "quick": LoktConfig(
            steps=100, restarts=20, batch_size=100, surrogate_steps=300, surrogate_batch=32,
            surrogate_width=0.25,
        ),
        "smoke": LoktConfig(
            steps=6, restarts=3, surrogates="critic,small-1", labelled=10, surrogate_steps=3,
            surrogate_batch=8, surrogate_width=0.1,
        ),
    },
)  # fmt: skip
