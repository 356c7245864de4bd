# SPDX-License-Identifier: Apache-2.0
"""The attacks by name: one line each."""

from .brep import BREP
from .diffusion import DIFFUSION
from .gmi import GMI
from .if_gmi import IF_GMI
from .ked import KED
from .lokt import LOKT
from .lomma import LOMMA, LOMMA_KED
from .mirror import MIRROR, MIRROR_WHITE
from .plg import PLG
from .ppa import PPA
from .ppdg import PPDG
from .rlb import RLB
from .spec import AttackSpec
from .vmi import VMI

DEFAULT = GMI  # of the commands, and what the demo shows
_ROWS = (
    GMI, KED, VMI, PPA, BREP, LOMMA, LOMMA_KED, PLG, RLB, MIRROR, MIRROR_WHITE, LOKT, PPDG, IF_GMI,
    DIFFUSION,
)  # fmt: skip
ATTACKS: dict[str, AttackSpec] = {spec.name: spec for spec in _ROWS}


def find_attack(name: str) -> AttackSpec:
    """Look up an attack.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {name!r}")
    return ATTACKS[name]
