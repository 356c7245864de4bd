# SPDX-License-Identifier: Apache-2.0
"""IF-GMI: PPA's search in the latents, then in the generator's features, layer after layer.

Qiu et al., "A Closer Look at GAN Priors: Exploiting Intermediate Features for Enhanced Model
Inversion Attacks" (ECCV 2024).
"""

from .ball import into_ball
from .inversion import IF_GMI, IfGmiConfig, invert_if_gmi

__all__ = ["IF_GMI", "IfGmiConfig", "into_ball", "invert_if_gmi"]
