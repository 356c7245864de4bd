# SPDX-License-Identifier: Apache-2.0
"""The attacks by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .gan import GanConfig
from .gmi import GmiConfig, invert
from .ked import KedConfig, KedGanConfig, invert_ked
from .result import Reconstructions


@dataclass(frozen=True)
class AttackSpec:
    """One attack.

    Attributes:
        name: as on the command line.
        description: one line, with its source.
        access: what it needs of the target.
        prior: the generator it needs, in a few words.
        config: class of its settings.
        prior_config: class of the settings of its generator's training.
        run: ``run(config, target, prior, classes, run_dir=, progress=, device=)``.
    """

    name: str
    description: str
    access: str
    prior: str
    config: Callable[..., Any]
    prior_config: Callable[..., Any]
    run: Callable[..., Reconstructions]


ATTACKS: dict[str, AttackSpec] = {
    spec.name: spec
    for spec in (
        AttackSpec(
            "gmi",
            "generative model inversion: latent search under a WGAN-GP prior (Zhang et al., CVPR 2020)",
            "white box",
            "WGAN-GP on public images, one for all targets",
            GmiConfig,
            GanConfig,
            invert,
        ),
        AttackSpec(
            "ked",
            "KED-MI: a GAN distilled from the target, a Gaussian in its latents for each class "
            "(Chen et al., ICCV 2021)",
            "white box",
            "GAN trained for the very target, on public images",
            KedConfig,
            KedGanConfig,
            invert_ked,
        ),
    )
}


def find_attack(name: str) -> AttackSpec:
    """Look up an attack.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {name!r}")
    return ATTACKS[name]
