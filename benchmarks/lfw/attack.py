# SPDX-License-Identifier: Apache-2.0
"""The attack of the table, with settings a CPU can afford."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.lfw.prior import SHAPE, Prior
from benchmarks.lfw.protocol import Faces
from bido_ext.lab.attack import GmiConfig, Reconstructions
from bido_ext.lab.attack.networks import LATENT_DIM
from bido_ext.lab.attack.rows import Rows
from bido_ext.lab.attacking import attack_target
from bido_ext.lab.stage import RunOptions

GMI = GmiConfig(steps=100, lr=2e-3, restarts=5, batch_size=62)


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

    Returns:
        What was found, and the seconds of each part.
    """
    if name != "gmi":
        raise ValueError(f"attack must be gmi, got {name!r}")
    people = range(len(faces.people))
    with _bfloat16():
        done = attack_target("gmi", target, prior, GMI, people, out, options)
    return done.reconstructions, {"attack": done.seconds}


def _bfloat16() -> torch.autocast:
    # Without a cache: it would keep the first cast of the latents, which are leaves, for every step.
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@torch.no_grad()
def unguided(prior: Prior, faces: Faces) -> torch.Tensor:
    """The images that GMI starts from, in the shape of reconstructions: what chance looks like."""
    people = list(range(len(faces.people)))
    rows = Rows.of(people, GMI.restarts, len(people), GMI.seed)
    latents = rows.starts(LATENT_DIM).clamp(-GMI.clip, GMI.clip)
    images = torch.cat([prior.generator(part) for part in latents.split(GMI.batch_size)])
    return images.view(GMI.restarts, len(people), *SHAPE)
