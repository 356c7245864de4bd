# SPDX-License-Identifier: Apache-2.0
"""The attacks by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .brep import BrepConfig, invert_brep
from .gan import GanConfig
from .gmi import GmiConfig, invert
from .ked import KedConfig, KedGanConfig, invert_ked
from .ppa import PpaConfig, invert_ppa
from .result import Reconstructions
from .vmi import VmiConfig, invert_vmi


@dataclass(frozen=True)
class AttackSpec:
    """One attack.

    Attributes:
        name: as on the command line.
        description: one line, with its source.
        access: what it needs of the target: its weights, or the labels of images it asks about.
        needs: its prior: GMI's GAN with its critic, KED-MI's GAN of the very target, or any
            generator (GMI's if no other is given).
        config: class of its settings.
        prior_config: class of the settings of its GAN's training.
        run: ``run(config, target, prior, classes, run_dir=, progress=, device=)``.
    """

    name: str
    description: str
    access: Literal["white box", "label only"]
    needs: Literal["gan", "ked gan", "generator"]
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
            "gan",
            GmiConfig,
            GanConfig,
            invert,
        ),
        AttackSpec(
            "ked",
            "KED-MI: a GAN distilled from the target, a Gaussian in its latents for each class "
            "(Chen et al., ICCV 2021)",
            "white box",
            "ked gan",
            KedConfig,
            KedGanConfig,
            invert_ked,
        ),
        AttackSpec(
            "vmi",
            "variational model inversion: a normalising flow over latents for each class "
            "(Wang et al., NeurIPS 2021)",
            "white box",
            "generator",
            VmiConfig,
            GanConfig,
            invert_vmi,
        ),
        AttackSpec(
            "ppa",
            "plug and play: selected starts, Poincare loss, random crops, robust selection "
            "(Struppek et al., ICML 2022)",
            "white box",
            "generator",
            PpaConfig,
            GanConfig,
            invert_ppa,
        ),
        AttackSpec(
            "brep",
            "BREP-MI: boundary repulsion, from the labels of queries alone (Kahla et al., CVPR 2022)",
            "label only",
            "generator",
            BrepConfig,
            GanConfig,
            invert_brep,
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
