# SPDX-License-Identifier: Apache-2.0
"""Model-inversion attacks by name."""

from dataclasses import dataclass

from .gan import Critic, Gan, GanConfig, Generator, train_gan
from .gmi import GmiConfig, Reconstructions, invert


@dataclass(frozen=True)
class AttackSpec:
    """One attack: its name, one line, and the access to the target that it needs."""

    name: str
    description: str
    access: str


ATTACKS: dict[str, AttackSpec] = {
    "gmi": AttackSpec(
        "gmi",
        "generative model inversion: latent search under a WGAN-GP prior (Zhang et al., CVPR 2020)",
        "white box",
    )
}

__all__ = [
    "ATTACKS",
    "AttackSpec",
    "Critic",
    "Gan",
    "GanConfig",
    "Generator",
    "GmiConfig",
    "Reconstructions",
    "invert",
    "train_gan",
]
