# SPDX-License-Identifier: Apache-2.0
"""Model-inversion attacks. No module here knows the evaluation classifier: it judges afterwards."""

from .black_box import BlackBox, BudgetError
from .brep import BrepConfig, invert_brep
from .gan import Gan, GanConfig, train_gan
from .generators import DirectLatents, LatentGenerator
from .gmi import GmiConfig, invert
from .ked import KedConfig, KedGan, KedGanConfig, invert_ked, load_ked_gan, train_ked_gan
from .networks import Critic, Generator
from .ppa import PpaConfig, invert_ppa
from .registry import ATTACKS, DEFAULT, find_attack
from .result import Reconstructions
from .spec import AttackSpec, PriorSpec
from .stylegan2 import StyleGan2, load_stylegan2
from .vmi import VmiConfig, invert_vmi

__all__ = [
    "ATTACKS",
    "DEFAULT",
    "AttackSpec",
    "BlackBox",
    "BrepConfig",
    "BudgetError",
    "Critic",
    "DirectLatents",
    "Gan",
    "GanConfig",
    "Generator",
    "GmiConfig",
    "KedConfig",
    "KedGan",
    "KedGanConfig",
    "LatentGenerator",
    "PpaConfig",
    "PriorSpec",
    "Reconstructions",
    "StyleGan2",
    "VmiConfig",
    "find_attack",
    "invert",
    "invert_brep",
    "invert_ked",
    "invert_ppa",
    "invert_vmi",
    "load_ked_gan",
    "load_stylegan2",
    "train_gan",
    "train_ked_gan",
]
