# SPDX-License-Identifier: Apache-2.0
"""PPA: many starts from a selection of the generator's own samples, optimised and selected again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows, stream_seed
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.training.checked import Count, Number, Positive, Share, checked

from .loss import LOSSES, Loss
from .selection import best_candidates, best_rows, candidate_scores, robust_confidence
from .transforms import DRAWS, OPTIMISATION, fit, resized_crop


@checked
class PpaConfig(SearchConfig):
    """How latents are selected and searched.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        candidates: samples of the generator to start the selection with (published: 2000 for
            FaceScrub, 5000 for CelebA).
        kept: candidates optimised for each class.
        selected: results kept for each class.
        steps: of Adam (published: 50 for FaceScrub, 70 for CelebA).
        lr, beta1, beta2: of Adam on the latents.
        transforms: random crops behind the last selection.
        loss: "poincare" (published), "cross-entropy" or "max-margin". The first one does not see how
            large the logits are, so that it may leave a target of few classes unsure.
        centre: side of the centre crop of the generator's images (published: 800 of 1024); 0: none.
    """

    candidates: Count = 2000
    kept: Count = 200
    selected: Count = 50
    steps: Count = 50
    lr: Positive = 5e-3
    beta1: Share = 0.1
    beta2: Share = 0.1
    transforms: Count = 100
    loss: Loss = "poincare"
    centre: Number = 0
    batch_size: Count = 25
    checkpoint_every: Count = 10

    def __post_init__(self) -> None:
        for smaller, larger in (("kept", "candidates"), ("selected", "kept")):
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(
                    f"{smaller} must be at most {larger} ({getattr(self, larger)}), got "
                    f"{getattr(self, smaller)}"
                )


def invert_ppa(
    config: PpaConfig,
    target: nn.Module,
    generator: nn.Module,
    classes: Sequence[int],
    *,
    input_size: int | None = None,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with any generator.

    Args:
        target: images -> logits; it is put in eval mode.
        generator: see ``LatentGenerator``; GMI's generator is searched in its noise.
        classes: labels of the target to reconstruct.
        input_size: side of the target's images; None: that of the generator's.
        how: see ``How``.

    Returns:
        ``selected`` images of each class, at the target's size, in no order of merit.

    Raises:
        ValueError: bad classes, a target that does not take such images, or ``run_dir`` holds
            another run.
        TypeError: a generator without the methods it needs.
        FloatingPointError: a loss is no longer finite.
    """
    space: Any = as_latent_generator(generator)
    side = ppa_side(config, space, input_size)
    work = Inversion(
        "ppa", "PPA", config, target, classes, (space.shape[0], side, side), space, how=how,
        restarts=config.kept, inputs={"input_size": side},
    )  # fmt: skip
    attack = PpaAttack(config, target, space, side, work.device)
    found, confidence = attack.search(work)
    chosen = best_rows(confidence, len(work.classes), config.selected)
    return work.collect(found[chosen], attack.images)


def ppa_side(config: Any, space: Any, input_size: int | None) -> int:
    """The side of what the target is given.

    Raises:
        ValueError: ``config.centre`` is larger than the generator's images.
    """
    if config.centre > min(space.shape[1:]):
        raise ValueError(
            f"centre must be at most the side of the generator's images ({space.shape[1]}), got "
            f"{config.centre}"
        )
    side: int = space.shape[1] if input_size is None else input_size
    return side


@dataclass(frozen=True)
class PpaAttack:
    """What all batches share, and attacks that select or search as PPA does.

    Attributes:
        config: with ``candidates``, ``centre`` and ``batch_size``; for ``search`` a ``PpaConfig``.
    """

    config: Any
    target: nn.Module
    space: Any
    side: int
    device: torch.device

    def search(self, work: Inversion) -> tuple[Tensor, Tensor]:
        """The latents of every row and the last selection's score of each."""
        starts = self.starts(work.rows, work.classes)
        found = work.search(lambda rows: _Ppa(self, starts, rows))["latents"]
        return found, self.confidence(found, work.rows)

    def images(self, latents: Tensor) -> Tensor:
        """What the target is shown of some latents, before random crops."""
        return self.shown(self.space.synthesis(latents))

    def shown(self, images: Tensor) -> Tensor:
        """The same of the generator's images."""
        return fit(images, self.config.centre, self.side)

    @torch.no_grad()
    def starts(self, rows: Rows, classes: Sequence[int]) -> dict[tuple[int, int], Tensor]:
        """As many candidates as there are restarts: (restart, label) -> latents."""
        random = torch.Generator().manual_seed(stream_seed(rows.seed, "ppa candidates"))
        z = torch.randn(self.config.candidates, self.space.z_dim, generator=random)
        z = z.to(next(self.space.parameters()))
        parts = [self.space.mapping(part) for part in z.split(self.config.batch_size)]
        scores = [candidate_scores(self.images(part), self.target).cpu() for part in parts]
        latents = torch.cat([part.cpu() for part in parts])
        best = best_candidates(torch.cat(scores), classes, len(rows) // len(classes))
        return {
            (restart, label): latents[row]
            for restart, line in enumerate(best.tolist())
            for label, row in zip(classes, line, strict=True)
        }

    def confidence(self, latents: Tensor, rows: Rows) -> Tensor:
        """The last selection's score of every row, on the CPU."""
        size, parts = self.config.batch_size, []
        with torch.no_grad():
            for first in range(0, len(rows), size):
                batch = rows.cut(first, first + size)
                images = self.images(latents[first : first + size].to(self.device)).clamp(0, 1)
                score = robust_confidence(images, batch, self.target, self.config.transforms)
                parts.append(score.cpu())
        return torch.cat(parts)


class _Ppa(Search):
    def __init__(
        self, attack: PpaAttack, starts: dict[tuple[int, int], Tensor], rows: Rows
    ) -> None:
        self.attack, self.rows = attack, rows
        self.labels = rows.wanted(attack.device)
        pairs = zip(rows.restarts, rows.labels, strict=True)
        self.latents = torch.stack([starts[pair] for pair in pairs]).to(attack.device)
        self.latents.requires_grad_()
        self.params = {"latents": self.latents}
        config = attack.config
        self.optimizer = torch.optim.Adam([self.latents], config.lr, (config.beta1, config.beta2))

    def losses(self, step: int) -> Tensor:
        draws = self.rows.uniform("ppa", step, DRAWS)
        seen = resized_crop(self.attack.images(self.latents), OPTIMISATION, draws)
        return LOSSES[self.attack.config.loss](self.attack.target(seen), self.labels)


PPA = AttackSpec(
    "ppa",
    "plug and play: selected starts, Poincare loss, random crops, robust selection "
    "(Struppek et al., ICML 2022)",
    "white box",
    PpaConfig,
    invert_ppa,
    WGAN,
    any_generator=True,
    truncation=0.5,
    file_only={"centre": 0},
    resizes=True,
    presets={
        "quick": PpaConfig(
            candidates=1000, kept=20, selected=10, lr=0.05, transforms=20, batch_size=100
        ),
        "smoke": PpaConfig(candidates=12, kept=4, selected=3, steps=3, transforms=2),
    },
)
