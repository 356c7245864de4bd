# SPDX-License-Identifier: Apache-2.0
"""BREP-MI: away from the boundary of a class, by the labels of points on a sphere alone.

Kahla et al., "Label-Only Model Inversion Attacks via Boundary Repulsion" (CVPR 2022).  A search
starts at a latent that the target gives the wanted label.  Each step asks for the labels of
``points`` on a sphere around it and moves away from those outside the class; where more than
``inside`` of them lie within, the sphere grows.  Kept is the centre of the largest sphere.

Differences from the released code: a refused move counts as an iteration (there it may repeat for
ever); a search looks for its own start; the evaluation classifier has no say in what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Unpack

from bido_ext.lab.training.checked import Count, Number, Positive, checked

from .black_box import BlackBox
from .gan import WGAN
from .generators import as_latent_generator, without_gradients
from .inversion import How, Inversion
from .result import Reconstructions
from .rows import Rows
from .search import BlindSearch
from .settings import SearchConfig
from .spec import AttackSpec


@checked
class BrepConfig(SearchConfig):
    """How the latents are searched.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: iterations of a search at most, those that look for its start included.
        candidates: latents asked about in an iteration without a start.
        points: on the sphere.
        radius: of the first sphere; growth: its factor when it grows; most_radius: where it ends.
        inside: share of the points that must lie in the class for the sphere to grow.
        patience: iterations at one radius after which a search ends.
        clip: latents are clamped to [-clip, clip].
        budget: queries of the whole attack, shared evenly among its searches; 0: no limit.
        restarts: independent searches a class.
    """

    steps: Count = 3000
    candidates: Count = 256
    points: Count = 32
    radius: Positive = 2.0
    growth: Annotated[float, Field(gt=1)] = 1.3
    most_radius: Positive = 16.3
    inside: Annotated[float, Field(gt=0, lt=1)] = 0.75
    patience: Count = 1000
    clip: Positive = 1.5
    budget: Number = 0
    restarts: Count = 1


def invert_brep(
    config: BrepConfig,
    target: BlackBox,
    generator: nn.Module,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` by its labels.

    Args:
        target: see ``BlackBox``; a network is refused.
        generator: a ``LatentGenerator``, or GMI's.
        classes: labels to reconstruct.
        how: see ``How``.

    Returns:
        With ``queries``; ``target_confidence`` is 1 where the target gives the wanted label, else 0.

    Raises:
        TypeError: ``target`` is a network.
        ValueError: bad classes, a budget below two queries a search, or ``run_dir`` holds another
            run.
        FloatingPointError: an answer is NaN.
    """
    source: Any = as_latent_generator(generator)
    work = Inversion(
        "brep", "BREP-MI", config, target, classes, source.shape, source, how=how,
        access="label only",
    )  # fmt: skip
    share = work.share()

    images = without_gradients(lambda z: source.synthesis(source.mapping(z)), work.device)
    found = work.search(lambda rows: _Brep(config, target, images, source.z_dim, rows, share))
    return work.collect(found["kept"], images, queries=found["queries"])


class _Brep(BlindSearch):
    def __init__(
        self, config: BrepConfig, target: BlackBox, images: Any, dim: int, rows: Rows, share: int
    ) -> None:
        self.config, self.target, self.images, self.rows = config, target, images, rows
        self.share = share - 1 if share else 0  # one is kept for the last check
        self.labels = torch.tensor(rows.labels)
        start = rows.starts(dim).clamp(-config.clip, config.clip)
        column = torch.zeros(len(rows), 1, dtype=torch.float64)
        self.params = {
            "latents": start,
            "kept": start.clone(),
            "started": column,
            "radius": column + config.radius,
            "waited": column.clone(),
            "queries": column.clone(),
        }

    def advance(self, step: int) -> Tensor:
        """One iteration of every search that goes on; returns minus the radius, NaN for a bad answer."""
        state, config = self.params, self.config
        losses = -state["radius"].squeeze(1)
        started = state["started"].squeeze(1) > 0
        looking = (~started & self._affords(config.candidates)).nonzero().flatten()
        going = started & self._affords(config.points + 1)
        going &= state["waited"].squeeze(1) < config.patience
        going &= state["radius"].squeeze(1) <= config.most_radius
        moving = going.nonzero().flatten()
        if len(looking):
            losses[looking] += self._look(looking, step)
        if len(moving):
            losses[moving] += self._move(moving, step)
        return losses

    def _affords(self, queries: int) -> Tensor:
        asked = self.params["queries"].squeeze(1)
        return asked + queries <= self.share if self.share else torch.ones_like(asked) > 0

    def _draw(self, chosen: Tensor, purpose: str, step: int, count: int) -> Tensor:
        """Normal numbers (chosen, count, dim), those of each row its own."""
        dim = self.params["latents"].shape[1]
        generators = self.rows.generators(purpose, step)
        return torch.stack([torch.randn(count, dim, generator=generators[i]) for i in chosen])

    def _ask(self, chosen: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each latent (chosen, count, dim) is of its row's class, and NaN or 0 for a row."""
        answered = self.target.labels(self.images(latents.flatten(0, 1)))
        answered = answered.view(latents.shape[:2])
        self.params["queries"][chosen] += latents.shape[1]
        bad = (answered < 0).any(1)
        return answered == self.labels[chosen][:, None], torch.where(
            bad, float("nan"), 0.0
        ).double()

    def _look(self, chosen: Tensor, step: int) -> Tensor:
        clip = self.config.clip
        drawn = self._draw(chosen, "start", step, self.config.candidates).clamp(-clip, clip)
        hit, bad = self._ask(chosen, drawn)
        for row, latents, inside in zip(chosen.tolist(), drawn, hit, strict=True):
            if inside.any():
                first = latents[int(inside.nonzero()[0])]
                self.params["latents"][row] = self.params["kept"][row] = first
                self.params["started"][row] = 1.0
        return bad

    def _move(self, chosen: Tensor, step: int) -> Tensor:
        config, state = self.config, self.params
        centre, radius = state["latents"][chosen], state["radius"][chosen]
        unit = self._draw(chosen, "sphere", step, config.points)
        unit = unit / unit.norm(dim=2, keepdim=True)
        inside, bad = self._ask(chosen, centre[:, None] + (radius[:, None] * unit).float())
        away = -((~inside)[:, :, None] * unit).mean(1)
        length = (radius / 3).clamp(max=3).float()
        moved = (centre + length * away).clamp(-config.clip, config.clip)
        stays, bad_too = self._ask(chosen, moved[:, None])
        centre = torch.where(stays, moved, centre)
        state["latents"][chosen] = centre
        grows = inside.double().mean(1, keepdim=True) > config.inside
        state["radius"][chosen] = torch.where(grows, radius * config.growth, radius)
        state["kept"][chosen] = torch.where(grows, centre, state["kept"][chosen])
        waited = state["waited"][chosen] + 1
        state["waited"][chosen] = torch.where(grows, torch.zeros_like(waited), waited)
        return bad + bad_too


BREP = AttackSpec(
    "brep",
    "BREP-MI: boundary repulsion, from the labels of queries alone (Kahla et al., CVPR 2022)",
    "label only",
    BrepConfig,
    invert_brep,
    WGAN,
    any_generator=True,
    presets={
        "quick": BrepConfig(
            steps=400, restarts=4, candidates=64, patience=60, radius=1.0, clip=1.2
        ),
        "smoke": BrepConfig(steps=3, candidates=8, points=4),
    },
)
