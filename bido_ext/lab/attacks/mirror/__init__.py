# SPDX-License-Identifier: Apache-2.0
"""MIRROR: latents that stay where the generator's own lie, by gradients or by queries.

An et al., "MIRROR: Model Inversion for Deep Learning Network with High Fidelity" (NDSS 2022). The
white box descends the target's cross-entropy, the black box breeds the surest latents.
"""

from .genetic import MIRROR, MirrorConfig, bred, invert_mirror
from .space import Space
from .white_box import MIRROR_WHITE, MirrorWhiteConfig, invert_mirror_white, pace

__all__ = [
    "MIRROR",
    "MIRROR_WHITE",
    "MirrorConfig",
    "MirrorWhiteConfig",
    "Space",
    "bred",
    "invert_mirror",
    "invert_mirror_white",
    "pace",
]
