# SPDX-License-Identifier: Apache-2.0
"""Model-inversion attacks. No module here knows the evaluation classifier: it judges afterwards."""

from .gan import Gan, GanConfig, train_gan
from .gmi import GmiConfig, invert
from .ked import KedConfig, KedGan, KedGanConfig, invert_ked, load_ked_gan, train_ked_gan
from .networks import Critic, Generator
from .registry import ATTACKS, AttackSpec, find_attack
from .result import Reconstructions

__all__ = [
    "ATTACKS",
    "AttackSpec",
    "Critic",
    "Gan",
    "GanConfig",
    "Generator",
    "GmiConfig",
    "KedConfig",
    "KedGan",
    "KedGanConfig",
    "Reconstructions",
    "find_attack",
    "invert",
    "invert_ked",
    "load_ked_gan",
    "train_gan",
    "train_ked_gan",
]
