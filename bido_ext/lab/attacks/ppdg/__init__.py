# SPDX-License-Identifier: Apache-2.0
"""PPDG-MI: the generator is tuned towards an attack's own best results, then attacked again.

Peng et al., "Pseudo-Private Data Guided Model Inversion Attacks" (NeurIPS 2024).
"""

from .distances import conditional_transport, multi_kernel_mmd
from .inversion import PPDG, PpdgConfig, invert_ppdg
from .tuning import Tuning, find_pivots, tuned

__all__ = [
    "PPDG",
    "PpdgConfig",
    "Tuning",
    "conditional_transport",
    "find_pivots",
    "invert_ppdg",
    "multi_kernel_mmd",
    "tuned",
]
