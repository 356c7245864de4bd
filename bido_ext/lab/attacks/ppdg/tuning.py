# SPDX-License-Identifier: Apache-2.0
"""PPDG-MI's tuning: pivots near the middle of the latents, then the generator moved on them.

The pivots are likely latents whose images lie close to the pseudo-private ones as a sample. The
generator is tuned until their images do: so the pseudo-private images become likely.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.training.checked import Count, Positive, Several, checked

from .distances import DISTANCES

Features = Callable[[Tensor], Tensor]  # images -> (n, d)
NOISE, QUIET, UP, DOWN = 0.05, 0.75, 0.05, 0.25  # published, of StyleGAN's own projection


@checked
class Tuning:
    """How the generator is tuned to the pseudo-private images of one class.

    Attributes:
        points: pseudo-private images of a class, the most robust of its first search.
        distance: "mmd" (several Gaussian kernels) or "ct" (conditional transport).
        features: what the distance compares: "pixels" or "target" (the target's penultimate
            features). Published: those of a VGG16 for LPIPS, which would have to be downloaded.
        pivot_steps, pivot_lr: of Adam on the pivots.
        tune_steps, tune_lr: of Adam on the generator; published: 150 steps for "mmd", 25 for "ct".
        space_samples: of the generator's latents, for their middle and their spread.
    """

    points: Several = 10
    distance: Literal["mmd", "ct"] = "mmd"
    features: Literal["pixels", "target"] = "pixels"
    pivot_steps: Count = 100
    pivot_lr: Positive = 0.01
    tune_steps: Count = 150
    tune_lr: Positive = 3e-4
    space_samples: Several = 600


def find_pivots(
    tuning: Tuning, space: Any, wanted: Tensor, features: Features, seed: int, label: int
) -> Tensor:
    """Latents (points, ...) whose images are, as a sample, close to ``wanted``.

    All start at the mean latent; noise that fades keeps them from being the same.

    Args:
        space: a ``LatentGenerator``.
        wanted: features (points, d) of the pseudo-private images.
        seed, label: name the random stream.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    weight = next(space.parameters())
    random = torch.Generator().manual_seed(stream_seed(seed, "ppdg space"))
    z = torch.randn(tuning.space_samples, space.z_dim, generator=random).to(weight)
    with torch.no_grad():
        drawn = torch.cat([space.mapping(part) for part in z.split(100)])
    middle = drawn.mean(0)
    spread = float((drawn - middle).square().flatten(1).sum(1).mean().sqrt())
    pivots = middle.expand(len(wanted), *middle.shape).clone().requires_grad_()
    optimizer = torch.optim.Adam([pivots], tuning.pivot_lr)
    random = torch.Generator().manual_seed(stream_seed(seed, label, "ppdg pivots"))
    for step in range(tuning.pivot_steps):
        done = step / tuning.pivot_steps
        fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / DOWN))
        optimizer.param_groups[0]["lr"] = tuning.pivot_lr * fall * min(1.0, done / UP)
        noise = torch.randn(pivots.shape, generator=random).to(weight)
        noise *= spread * NOISE * max(0.0, 1 - done / QUIET) ** 2
        images = space.synthesis(pivots + noise)
        away = _distance(tuning, features(images), wanted, label, "pivots", step)
        (pivots.grad,) = torch.autograd.grad(away, [pivots])
        optimizer.step()
    return pivots.detach()


def tuned(
    tuning: Tuning, space: Any, pivots: Tensor, wanted: Tensor, features: Features, label: int
) -> Any:
    """A copy of ``space`` whose images of ``pivots`` are, as a sample, closer to ``wanted``.

    Running statistics of batch norm stay as they are.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    made = copy.deepcopy(space).eval()
    weights = list(made.parameters())
    optimizer = torch.optim.Adam(weights, tuning.tune_lr)
    for step in range(tuning.tune_steps):
        told = features(made.synthesis(pivots))
        away = _distance(tuning, told, wanted, label, "generator", step)
        # The mapping has no part in it, and no gradient.
        gradients = torch.autograd.grad(away, weights, allow_unused=True)
        for value, gradient in zip(weights, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return made


def _distance(
    tuning: Tuning, told: Tensor, wanted: Tensor, label: int, what: str, step: int
) -> Tensor:
    if not bool(told.isfinite().all()):
        raise FloatingPointError(
            f"PPDG-MI: identity {label}: a feature of the {what} is not finite at step {step + 1}; "
            "lower its lr"
        )
    return DISTANCES[tuning.distance](told, wanted)
