# SPDX-License-Identifier: Apache-2.0
"""MIRROR's white box: Adam in the latents, clipped to the generator's own range after every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.ppa.inversion import PpaAttack, ppa_side
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows, stream_seed
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.attacks.target import at_least_float32
from bido_ext.lab.training.checked import Count, Number, Positive, Several, Share, Weight, checked

from .space import Space

if TYPE_CHECKING:
    from typing_extensions import Unpack

RISE, FALL = 0.05, 0.25  # shares of the steps in which the step size grows and shrinks, as released


@checked
class MirrorWhiteConfig(SearchConfig):
    """How the latents are searched.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        candidates: samples of the generator, clipped; the searches of a class start from those
            that the target is surest of.
        steps: of Adam.
        lr: largest step size; it grows in the first twentieth of the steps, and falls to 0 in the
            last quarter.
        id_weight: weight of the cross-entropy.
        bound: latents stay within this many standard deviations of the mean.
        space_samples: samples of the generator that mean and deviation come from.
        mirrored: probability with which the target is shown the mirror image; grey images, which
            hold characters, are never mirrored.
        centre: side of the centre crop of the generator's images; 0: none.
        restarts: searches of a class; all are kept.
    """

    candidates: Count = 100_000
    steps: Count = 20_000
    lr: Positive = 0.25
    id_weight: Weight = 10.0
    bound: Positive = 1.0
    space_samples: Several = 100_000
    mirrored: Share = 0.5
    centre: Number = 0
    restarts: Count = 8
    batch_size: Count = 8

    def __post_init__(self) -> None:
        if self.restarts > self.candidates:
            raise ValueError(
                f"restarts must be at most candidates ({self.candidates}), got {self.restarts}"
            )


def invert_mirror_white(
    config: MirrorWhiteConfig,
    target: nn.Module,
    generator: nn.Module,
    classes: Sequence[int],
    *,
    input_size: int | None = None,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` by its gradients.

    Args:
        target: images -> logits; it is put in eval mode.
        generator: a ``LatentGenerator``, or GMI's, which is searched in its noise.
        classes: labels to reconstruct.
        input_size: side of the target's images; None: that of the generator's.
        how: see ``How``.

    Returns:
        Of each search the latents with the smallest loss.

    Raises:
        TypeError: ``target`` is a black box, or a generator without the methods it needs.
        ValueError: bad classes, latents of more than one vector, a target that does not take such
            images, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    source: Any = as_latent_generator(generator)
    side = ppa_side(config, source, input_size)
    work = Inversion(
        "mirror-white", "MIRROR", config, target, classes, (source.shape[0], side, side), source,
        how=how, inputs={"input_size": side},
    )  # fmt: skip
    shown = PpaAttack(config, target, source, side, work.device)
    space = Space(source, config)
    starts = _surest(shown, space, work.classes)
    found = work.search(lambda rows: MirrorWhite(shown, space, starts, rows))
    return work.collect(found["latents"], shown.images)


@torch.no_grad()
def _surest(attack: PpaAttack, space: Space, classes: Sequence[int]) -> dict[int, Tensor]:
    """For each class the starts of its searches (restarts, dim), the surest sample first.

    In this order a search does not depend on how many there are.
    """
    config, device = attack.config, attack.device
    random = torch.Generator().manual_seed(stream_seed(config.seed, "mirror candidates"))
    z = torch.randn(config.candidates, attack.space.z_dim, generator=random)
    latents = space.latents(space.bounded(space.sampled(z)))
    parts = [attack.target(attack.images(part.to(device))) for part in latents.split(250)]
    sure = torch.cat([at_least_float32(part).softmax(1).cpu() for part in parts])
    best = {label: sure[:, label].sort(descending=True, stable=True).indices for label in classes}
    return {label: latents[order[: config.restarts]] for label, order in best.items()}


def pace(step: int, steps: int) -> float:
    """The share of ``lr`` at ``step``, from 1, of ``steps``: it rises, stays, falls to 0."""
    done = step / steps
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / FALL))
    return fall * min(1.0, done / RISE)


class MirrorWhite(Search):
    """Adam under ``pace``; ``params`` hold the best latents so far and their loss."""

    def __init__(
        self, attack: PpaAttack, space: Space, starts: Mapping[int, Tensor], rows: Rows
    ) -> None:
        self.attack, self.config, self.rows = attack, attack.config, rows
        self.labels = rows.wanted(attack.device)
        pairs = zip(rows.restarts, rows.labels, strict=True)
        weight = next(attack.space.parameters())
        self.now = torch.stack([starts[label][restart] for restart, label in pairs]).to(weight)
        self.now.requires_grad_()
        exact = torch.promote_types(weight.dtype, torch.float32)
        # A leaky ReLU keeps the order: bounds of points are bounds of latents.
        self.low, self.high = (space.latents(end).to(weight) for end in (space.low, space.high))
        self.optimizer = torch.optim.Adam([self.now], self.config.lr)
        self.params = {
            "latents": self.now.detach().clone(),
            "least": self.now.new_full((len(rows), 1), float("inf"), dtype=exact),
        }

    def losses(self, step: int) -> Tensor:
        """See ``Search``."""
        seen = self.attack.images(self.now)
        if seen.shape[1] == 3:
            draws = self.rows.uniform("mirror white", step, 1, 1, 1).to(seen)
            turned = draws < self.config.mirrored
            seen = torch.where(turned, seen.flip(3), seen)
        logits = at_least_float32(self.attack.target(seen))
        loss = F.cross_entropy(logits, self.labels, reduction="none")
        return self.config.id_weight * loss

    def advance(self, step: int) -> Tensor:
        """See ``Search``."""
        losses = self.losses(step)
        (self.now.grad,) = torch.autograd.grad(losses.sum(), [self.now])
        losses = losses.detach()
        with torch.no_grad():
            # NaN is never less; it is seen in what is returned.
            better = losses[:, None] < self.params["least"]
            self.params["least"] = torch.where(better, losses[:, None], self.params["least"])
            self.params["latents"] = torch.where(better, self.now, self.params["latents"])
        self.optimizer.param_groups[0]["lr"] = self.config.lr * pace(step, self.config.steps)
        self.optimizer.step()
        with torch.no_grad():
            self.now.copy_(torch.minimum(torch.maximum(self.now, self.low), self.high))
        return losses

    def state(self) -> dict[str, Any]:
        """See ``Search``."""
        return {**super().state(), "now": self.now.detach()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Search``."""
        super().load(state)
        with torch.no_grad():
            self.now.copy_(state["now"])


MIRROR_WHITE = AttackSpec(
    "mirror-white",
    "MIRROR, white box: Adam from the surest samples, among latents clipped to the generator's own "
    "range (An et al., NDSS 2022)",
    "white box",
    MirrorWhiteConfig,
    invert_mirror_white,
    WGAN,
    any_generator=True,
    file_only={"centre": 0},
    resizes=True,
    presets={
        "quick": MirrorWhiteConfig(
            candidates=1000, space_samples=2000, steps=100, restarts=10, batch_size=50
        ),
        "smoke": MirrorWhiteConfig(candidates=12, space_samples=20, steps=3, restarts=3),
    },
)
