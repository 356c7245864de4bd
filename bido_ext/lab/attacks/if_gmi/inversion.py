# SPDX-License-Identifier: Apache-2.0
"""IF-GMI's search: stage 0 in the latents, then one stage for the features of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.ppa.inversion import PpaAttack, ppa_side
from bido_ext.lab.attacks.ppa.loss import LOSSES, Loss
from bido_ext.lab.attacks.ppa.transforms import DRAWS, OPTIMISATION, resized_crop
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.training.checked import Count, Number, Positive, Share, checked

from .ball import into_ball

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
class IfGmiConfig(SearchConfig):
    """How latents and features are searched.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        candidates: samples of the generator that the starts are selected from.
        restarts: candidates optimised for each class; all are kept.
        steps: of Adam, of all stages together: those that the features leave are the latents' own.
        feature_steps: of each layer's features (published: 10 for FaceScrub, after 50 in the
            latents; 25 for CelebA, after 70).
        layers: whose features are searched, from the first on; at most as many as the generator
            has (published: 7 for FaceScrub, 4 for CelebA).
        radii: of the balls around where a stage starts, one number for each stage, the latents'
            first; the last one serves all further stages; 0: no bound.
        ball: "l1" or "l2".
        loss: as of ``PpaConfig``.
        lr, feature_lr, beta1, beta2: of Adam, begun anew in every stage; in the stages of features
            both latents and features move by ``feature_lr``.
        centre: side of the centre crop of the generator's images (published: 800 of 1024); 0: none.
    """

    candidates: Count = 5000
    restarts: Count = 50
    steps: Count = 120
    feature_steps: Count = 10
    layers: Number = 7
    radii: str = "1000,2000,3000,4000,5000,6000,8000,8000"
    ball: Literal["l1", "l2"] = "l1"
    loss: Loss = "poincare"
    lr: Positive = 5e-3
    feature_lr: Positive = 5e-3
    beta1: Share = 0.1
    beta2: Share = 0.1
    centre: Number = 0
    batch_size: Count = 10
    checkpoint_every: Count = 10

    def __post_init__(self) -> None:
        if self.restarts > self.candidates:
            raise ValueError(
                f"restarts must be at most candidates ({self.candidates}), got {self.restarts}"
            )
        self.radius(0)

    def radius(self, stage: int) -> float:
        """The radius of a stage.

        Raises:
            ValueError: ``radii`` are no numbers of at least 0.
        """
        try:
            radii = [float(part) for part in self.radii.split(",")]
        except ValueError:
            radii = [-1.0]
        if not all(0 <= radius < float("inf") for radius in radii):
            raise ValueError(f"radii must be numbers of at least 0 by commas, got {self.radii!r}")
        return radii[min(stage, len(radii) - 1)]


def invert_if_gmi(
    config: IfGmiConfig,
    target: nn.Module,
    generator: nn.Module,
    classes: Sequence[int],
    *,
    input_size: int | None = None,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with any generator that has layers.

    Args:
        target: images -> logits; it is put in eval mode.
        generator: see ``LayeredGenerator``; GMI's generator is searched in its noise.
        classes: labels of the target to reconstruct.
        input_size: side of the target's images; None: that of the generator's.
        how: see ``How``.

    Returns:
        ``restarts`` images of each class, at the target's size. The latents are those of the last
        stage; without its features, which are not kept, they do not make the image again.

    Raises:
        TypeError: ``target`` is a black box, or a generator without the methods it needs.
        ValueError: bad classes, a target that does not take such images, a generator of one layer,
            no steps left for the latents, or ``run_dir`` holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    space: Any = as_latent_generator(generator)
    missing = [name for name in ("layers", "through", "image") if not hasattr(space, name)]
    if missing:
        raise TypeError(
            f"generator must have layers, through and image (LayeredGenerator), "
            f"{type(generator).__name__} has no {', '.join(missing)}"
        )
    side, layers = ppa_side(config, space, input_size), min(config.layers, space.layers - 1)
    if config.layers and not layers:
        raise ValueError("generator must have at least two layers; layers=0 searches latents alone")
    if config.steps <= layers * config.feature_steps:
        raise ValueError(
            f"steps must be more than feature_steps of {layers} layers "
            f"({layers * config.feature_steps}), got {config.steps}"
        )
    work = Inversion(
        "if-gmi", "IF-GMI", config, target, classes, (space.shape[0], side, side), space, how=how,
        inputs={"input_size": side},
    )  # fmt: skip
    attack = PpaAttack(config, target, space, side, work.device)
    starts = attack.starts(work.rows, work.classes)
    found = work.search(lambda rows: _IfGmi(attack, starts, rows, layers))
    result = work.collect(found["images"], lambda images: images)
    result.latents = found["latents"].unflatten(0, (-1, len(work.classes)))
    return result


class _IfGmi(Search):
    """``images`` are filled at the end: the features, which are large, are not kept."""

    def __init__(
        self, attack: PpaAttack, starts: dict[tuple[int, int], Tensor], rows: Rows, layers: int
    ) -> None:
        self.attack, self.config, self.rows, self.space = attack, attack.config, rows, attack.space
        self.first = self.config.steps - layers * self.config.feature_steps
        self.labels = rows.wanted(attack.device)
        pairs = zip(rows.restarts, rows.labels, strict=True)
        self.latents = torch.stack([starts[pair] for pair in pairs]).to(attack.device)
        self.latents.requires_grad_()
        shape = (attack.space.shape[0], attack.side, attack.side)
        self.params = {
            "latents": self.latents,
            "images": self.latents.new_zeros(len(rows), *shape),
        }
        self.between: list[Tensor] = []  # the state that the searched layers begin with
        self._enter(0)

    def _enter(self, stage: int) -> None:
        """Search from here on what ``between`` holds, around where it is."""
        self.stage = stage
        self.leaves = [self.latents]
        if stage:
            self.between[0] = self.between[0].detach().clone().requires_grad_()
            self.leaves.append(self.between[0])
        self.centres = [leaf.detach().clone() for leaf in self.leaves]
        betas = (self.config.beta1, self.config.beta2)
        lr = self.config.feature_lr if stage else self.config.lr
        self.optimizer = torch.optim.Adam(self.leaves, lr, betas)

    def _images(self) -> Tensor:
        space = self.space
        made = space.image(space.through(self.stage, space.layers, self.latents, self.between))
        return self.attack.shown(made)

    def losses(self, step: int) -> Tensor:
        draws = self.rows.uniform("if-gmi", step, DRAWS)
        seen = resized_crop(self._images(), OPTIMISATION, draws)
        return LOSSES[self.config.loss](self.attack.target(seen), self.labels)

    def advance(self, step: int) -> Tensor:
        later = max(0, step - 1 - self.first) // self.config.feature_steps
        stage = 1 + later if step > self.first else 0
        if stage > self.stage:
            with torch.no_grad():
                self.between = self.space.through(stage - 1, stage, self.latents, self.between)
            self._enter(stage)
        losses = self.losses(step)
        # A plain generator's noise has no part in what is behind its first layer.
        gradients = torch.autograd.grad(losses.sum(), self.leaves, allow_unused=True)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        self.optimizer.step()
        radius = self.config.radius(self.stage)
        with torch.no_grad():
            for leaf, centre in zip(self.leaves, self.centres, strict=True):
                leaf.copy_(into_ball(leaf, centre, radius, self.config.ball))
            if step == self.config.steps:
                self.params["images"] = self._images()
        return losses.detach()

    def state(self) -> dict[str, Any]:
        """See ``Search``."""
        between = [part.detach() for part in self.between]
        return {
            **super().state(), "stage": self.stage, "between": between, "centres": self.centres,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Search``."""
        self.between = [part.to(self.attack.device) for part in state["between"]]
        self._enter(state["stage"])
        super().load(state)
        self.centres = [part.to(self.attack.device) for part in state["centres"]]


IF_GMI = AttackSpec(
    "if-gmi",
    "IF-GMI: PPA's search, then in the features of layer after layer, within l1 balls "
    "(Qiu et al., ECCV 2024)",
    "white box",
    IfGmiConfig,
    invert_if_gmi,
    WGAN,
    any_generator=True,
    truncation=0.5,
    file_only={"centre": 0},
    resizes=True,
    presets={
        "quick": IfGmiConfig(
            candidates=1000, restarts=10, steps=80, layers=3, radii="0,50,100,150", lr=0.05,
            loss="cross-entropy", batch_size=50,
        ),
        "smoke": IfGmiConfig(
            candidates=12, restarts=3, steps=3, feature_steps=1, layers=2, radii="0,50"
        ),
    },
)  # fmt: skip
