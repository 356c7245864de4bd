# SPDX-License-Identifier: Apache-2.0
"""LOMMA: a logit loss held near public features, and students of the target beside it.

Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks" (CVPR 2023). Both
parts go with GMI's search and with KED-MI's.
"""

from .inversion import (
    LOMMA,
    LOMMA_KED,
    LommaConfig,
    LommaKedConfig,
    invert_lomma,
    invert_lomma_ked,
)
from .settings import LommaSettings
from .students import train_students

__all__ = [
    "LOMMA",
    "LOMMA_KED",
    "LommaConfig",
    "LommaKedConfig",
    "LommaSettings",
    "invert_lomma",
    "invert_lomma_ked",
    "train_students",
]
