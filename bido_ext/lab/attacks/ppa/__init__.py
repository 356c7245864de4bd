# SPDX-License-Identifier: Apache-2.0
"""PPA: select, optimise under transforms with the Poincare loss, select again.

Struppek et al., "Plug & Play Attacks" (ICML 2022).
"""

from .inversion import PPA, PpaConfig, invert_ppa
from .loss import poincare_loss

__all__ = ["PPA", "PpaConfig", "invert_ppa", "poincare_loss"]
