# SPDX-License-Identifier: Apache-2.0
"""Sampling by DDIM, pulled at each step towards images that the target assigns to a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.plg.views import DRAWS, view
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import BlindSearch
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.attacks.target import at_least_float32
from bido_ext.lab.training.checked import Count, Weight, checked

from .network import UNet
from .process import circle, taken_apart
from .training import DIFFUSION_PRIOR, DiffusionPrior

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
class DiffusionConfig(SearchConfig):
    """How images are sampled.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: of DDIM, from noise to image.
        guidance: weight of the identity loss, the mean over views of the cross-entropy of the
            image that the network foresees; 0 samples public images.
        views: augmented views of the foreseen image in a step.
        restarts: independent samples per class; all are kept.
    """

    steps: Count = 100
    guidance: Weight = 10.0
    views: Count = 2
    restarts: Count = 5
    batch_size: Count = 60
    checkpoint_every: Count = 10


def invert_diffusion(
    config: DiffusionConfig,
    target: nn.Module,
    prior: DiffusionPrior,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target``.

    Args:
        target: images of the prior's shape -> logits; it is put in eval mode.
        prior: see ``train_diffusion``.
        classes: labels of the target to reconstruct.
        how: see ``How``.

    Returns:
        The samples; ``latents`` are these images in [-1, 1], up to a little overshoot.

    Raises:
        TypeError: ``target`` is a black box.
        ValueError: bad classes, a target that does not take the prior's images, or ``run_dir``
            holds another run.
        FloatingPointError: a loss is no longer finite.
    """
    network = prior.generator
    work = Inversion(
        "diffusion", "diffusion", config, target, classes, network.shape, network, how=how
    )
    found = work.search(lambda rows: _Diffusion(config, target, network, rows, work.device))
    return work.collect(found["latents"], as_images)


def as_images(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (x + 1) / 2


class _Diffusion(BlindSearch):
    def __init__(
        self, config: DiffusionConfig, target: nn.Module, network: UNet, rows: Rows,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.config, self.target, self.network, self.rows = config, target, network, rows
        self.labels = rows.wanted(device)
        weight = next(network.parameters())
        self.x = rows.noise("diffusion start", 0, *network.shape).to(weight)
        self.params = {"latents": self.x}

    def advance(self, step: int) -> Tensor:
        """One step of DDIM; returns the identity losses."""
        now, then = (
            self.x.new_full((len(self.x),), 1 - done / self.config.steps)
            for done in (step - 1, step)
        )
        x = self.x.detach().requires_grad_()
        image, noise = taken_apart(x, self.network(x, now), now)
        losses = self.identity(as_images(image).clamp(0, 1), step)
        (pull,) = torch.autograd.grad(losses.sum(), [x])
        with torch.no_grad():
            _, sin = circle(now, x)
            pulled = (image - self.config.guidance * sin.square() * pull).clamp(-1, 1)
            cos, sin = circle(then, x)
            self.x.copy_(cos * pulled + sin * noise)
        return losses.detach()

    def identity(self, images: Tensor, step: int) -> Tensor:
        """The identity loss of each row."""
        count = self.config.views
        draws = self.rows.uniform("diffusion", step, count, DRAWS)
        seen = torch.cat([view(images, one) for one in draws.unbind(1)])
        logits = at_least_float32(self.target(seen))
        each = F.cross_entropy(logits, self.labels.repeat(count), reduction="none")
        return each.view(count, -1).mean(0)


DIFFUSION = AttackSpec(
    "diffusion",
    "a diffusion model of the public images, sampled by DDIM under the target's guidance "
    "(classifier guidance: Dhariwal and Nichol, NeurIPS 2021)",
    "white box",
    DiffusionConfig,
    invert_diffusion,
    DIFFUSION_PRIOR,
    presets={
        "quick": DiffusionConfig(steps=50, restarts=10, batch_size=50),
        "smoke": DiffusionConfig(steps=6, restarts=3),
    },
)
