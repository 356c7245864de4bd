# SPDX-License-Identifier: Apache-2.0
"""The attacks of the table, with settings a CPU can afford."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.lfw.prior import SHAPE, Prior, PriorConfig
from benchmarks.lfw.protocol import SHA256, Faces
from bido_ext.lab.attacks import (
    GmiConfig,
    KedConfig,
    KedGanConfig,
    PpaConfig,
    Reconstructions,
)
from bido_ext.lab.attacks.networks import LATENT_DIM
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.data import ImageSet
from bido_ext.lab.experiments.attacking import PublicSet, attack_target, train_prior
from bido_ext.lab.experiments.stage import RunOptions

GMI = GmiConfig(steps=100, lr=2e-3, restarts=5, batch_size=62)
KED_GAN = KedGanConfig(
    steps=40, lr=PriorConfig.lr, width=PriorConfig.width, critic_width=PriorConfig.width
)
KED = KedConfig(steps=400, lr=5e-2, restarts=1, samples=5, batch_size=62)
PPA = PpaConfig(
    candidates=2000, kept=10, selected=5, steps=20, lr=5e-2, transforms=10, batch_size=62
)
SETTINGS: dict[str, Any] = {"gmi": GMI, "ked": KED, "ppa": PPA}
OWN_PRIOR = {"ked": KED_GAN}  # attacks whose generator belongs to one classifier


def attack(
    name: str,
    target: nn.Module,
    prior: Prior,
    faces: Faces,
    out: Path,
    options: RunOptions,
) -> tuple[Reconstructions, dict[str, Any]]:
    """Run an attack on every private person; a finished attack is loaded.

    Networks run in bfloat16 (autocast), latents and optimisers in float32.

    Args:
        name: Key of ``SETTINGS``.
        prior: Of the public faces; KED-MI's GAN, the target's own, is trained on from it.

    Returns:
        What was found, and the seconds of each part.
    """
    if name not in SETTINGS:
        raise ValueError(f"attack must be one of {', '.join(SETTINGS)}, got {name!r}")
    people, seconds = range(len(faces.people)), {}
    with _bfloat16():
        generator: Any = prior if name == "gmi" else prior.generator
        if name in OWN_PRIOR:
            public = PublicSet(ImageSet(faces.public, None), SHA256)
            generator, _ = train_prior(
                name, public, OWN_PRIOR[name], out / "prior", options, target=target, start=prior
            )
            seconds["prior"] = generator.seconds
        done = attack_target(name, target, generator, SETTINGS[name], people, out, options)
    return done.reconstructions, {**seconds, "attack": done.seconds}


def settings() -> dict[str, Any]:
    """All of the above as plain values."""
    found = {name: asdict(config) for name, config in SETTINGS.items()}
    for name, config in OWN_PRIOR.items():
        found[name]["gan"] = asdict(config)
    return found


def _bfloat16() -> torch.autocast:
    # Without a cache: it would keep the first cast of what is optimised for every step.
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@torch.no_grad()
def unguided(prior: Prior, faces: Faces) -> torch.Tensor:
    """The images that GMI starts from, in the shape of reconstructions: what chance looks like."""
    people = list(range(len(faces.people)))
    rows = Rows.of(people, GMI.restarts, len(people), GMI.seed)
    latents = rows.starts(LATENT_DIM).clamp(-GMI.clip, GMI.clip)
    images = torch.cat([prior.generator(part) for part in latents.split(GMI.batch_size)])
    return images.view(GMI.restarts, len(people), *SHAPE)
