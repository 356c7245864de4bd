# SPDX-License-Identifier: Apache-2.0
"""MIRROR's black box: a genetic search by the target's probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.black_box import BlackBox
from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator, without_gradients
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import BlindSearch
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.training.checked import Count, Number, Part, Positive, Several, checked

from .space import Space

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
class MirrorConfig(SearchConfig):
    """How the latents are bred.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: generations.
        candidates: samples of the generator that each search starts its population from.
        population: latents of a generation; the best one stays.
        mutation: share of the coordinates that change.
        mutation_size: how far at most, in standard deviations.
        bound: latents stay within this many standard deviations of the mean.
        enough: probability of the wanted class at which a search ends.
        space_samples: samples of the generator (no queries) that mean and deviation come from.
        budget: queries of the whole attack, shared evenly among its searches; 0: no limit.
        restarts: independent searches a class.
    """

    steps: Count = 100
    candidates: Several = 2000
    population: Several = 1000
    mutation: Part = 0.1
    mutation_size: Positive = 0.1
    bound: Positive = 1.0
    enough: Part = 0.95
    space_samples: Several = 10_000
    budget: Number = 0
    restarts: Count = 1
    batch_size: Count = 8
    checkpoint_every: Count = 10

    def __post_init__(self) -> None:
        if self.population > self.candidates:
            raise ValueError(
                f"population must be at most candidates ({self.candidates}), got {self.population}"
            )


def invert_mirror(
    config: MirrorConfig,
    target: BlackBox,
    generator: nn.Module,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` by its probabilities.

    Args:
        target: see ``BlackBox``; a network is refused.
        generator: a ``LatentGenerator``, or GMI's, which is searched in its noise.
        classes: labels to reconstruct.
        how: see ``How``.

    Returns:
        Of each search the best of its last generation, with ``queries``.

    Raises:
        TypeError: ``target`` is a network.
        PermissionError: it answers labels alone.
        ValueError: bad classes, latents of more than one vector, a budget below two queries a search,
            or ``run_dir`` holds another run.
        FloatingPointError: an answer is NaN.
    """
    source: Any = as_latent_generator(generator)
    work = Inversion(
        "mirror", "MIRROR", config, target, classes, source.shape, source, how=how,
        access="black box",
    )  # fmt: skip
    share, space = work.share(), Space(source, config)
    images = without_gradients(source.synthesis, work.device)
    found = work.search(lambda rows: _Mirror(config, target, images, space, rows, share))
    return work.collect(found["latents"], images, queries=found["queries"])


def bred(
    points: Tensor, sure: Tensor, space: Space, config: MirrorConfig, random: torch.Generator
) -> Tensor:
    """The children of one population, one fewer than there are parents.

    Two parents for each, drawn in proportion to their probabilities; each coordinate comes from one
    of them, in the same proportion; some are moved a little.

    Args:
        points: (n, dim).
        sure: probability of the wanted class (n,).
    """
    n, dim = points.shape
    chances = sure.double().clamp_min(1e-30)
    first, second = torch.multinomial(chances, 2 * (n - 1), True, generator=random).chunk(2)
    share = (chances[first] / (chances[first] + chances[second]))[:, None]
    from_first = torch.rand(n - 1, dim, generator=random) < share
    children = torch.where(from_first, points[first], points[second])
    moved = torch.rand(n - 1, dim, generator=random) < config.mutation
    noise = (2 * torch.rand(n - 1, dim, generator=random) - 1) * config.mutation_size * space.std
    return space.bounded(children + moved * noise)


class _Mirror(BlindSearch):
    def __init__(
        self, config: MirrorConfig, target: BlackBox, images: Callable[[Tensor], Tensor],
        space: Space, rows: Rows, share: int,
    ) -> None:  # fmt: skip
        self.config, self.target, self.images, self.space = config, target, images, space
        self.rows, self.labels = rows, rows.labels
        self.share = share - 1 if share else 0  # one is kept for the last look
        dim = len(space.mean)
        self.params = {
            "latents": torch.zeros(len(rows), dim),
            "queries": torch.zeros(len(rows), 1, dtype=torch.float64),
        }
        self.points: list[Tensor] = [torch.zeros(0, dim) for _ in self.labels]
        self.sure: list[Tensor] = [torch.zeros(0) for _ in self.labels]

    def state(self) -> dict[str, Any]:
        """See ``Search``."""
        return {**super().state(), "points": self.points, "sure": self.sure}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Search``."""
        super().load(state)
        self.points, self.sure = list(state["points"]), list(state["sure"])

    def advance(self, step: int) -> Tensor:
        """One generation of every search that goes on; returns minus the best probabilities."""
        for row, random in enumerate(self.rows.generators("mirror", step)):
            if step == 1:
                self._begin(row, random)
            else:
                self._breed(row, random)
            self.params["latents"][row] = self.space.latents(self.points[row][0])
        return -torch.stack([sure[0] for sure in self.sure]).double()

    def _begin(self, row: int, random: torch.Generator) -> None:
        count = self.config.candidates
        count = min(count, self.share) if self.share else count
        z = torch.randn(count, self.space.source.z_dim, generator=random)
        points = self.space.bounded(self.space.sampled(z))
        self._keep(row, points, self._ask(row, points))

    def _breed(self, row: int, random: torch.Generator) -> None:
        points, sure = self.points[row], self.sure[row]
        asked = float(self.params["queries"][row])
        spent = self.share and asked + len(points) - 1 > self.share
        if len(points) < 2 or spent or float(sure[0]) >= self.config.enough:
            return
        children = bred(points, sure, self.space, self.config, random)
        told = self._ask(row, children)
        self._keep(row, torch.cat([points[:1], children]), torch.cat([sure[:1], told]))

    def _ask(self, row: int, points: Tensor) -> Tensor:
        self.params["queries"][row] += len(points)
        parts = self.space.latents(points).split(250)
        told = [self.target.probabilities(self.images(part)).float() for part in parts]
        return torch.cat(told)[:, self.labels[row]]

    def _keep(self, row: int, points: Tensor, sure: Tensor) -> None:
        """The best first; NaN sorts as the largest, so it is seen."""
        order = sure.sort(descending=True, stable=True).indices[: self.config.population]
        self.points[row], self.sure[row] = points[order], sure[order]


MIRROR = AttackSpec(
    "mirror",
    "MIRROR, black box: a genetic search among bounded latents, by the probabilities of queries "
    "(An et al., NDSS 2022)",
    "black box",
    MirrorConfig,
    invert_mirror,
    WGAN,
    any_generator=True,
    presets={
        "quick": MirrorConfig(
            steps=40, restarts=4, candidates=200, population=50, space_samples=2000
        ),
        "smoke": MirrorConfig(steps=3, candidates=8, population=4, space_samples=20),
    },
)
