# SPDX-License-Identifier: Apache-2.0
"""VMI: a normalising flow as the posterior over latents, one for each class.

Wang et al., "Variational Model Inversion Attacks" (NeurIPS 2021).
"""

from .flow import CouplingFlow
from .inversion import VMI, VmiConfig, invert_vmi

__all__ = ["VMI", "CouplingFlow", "VmiConfig", "invert_vmi"]
