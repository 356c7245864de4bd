# SPDX-License-Identifier: Apache-2.0
"""PLG-MI: a conditional GAN on public images under the target's pseudo-labels, max-margin losses.

Yuan et al., "Pseudo Label-Guided Model Inversion Attack via Conditional GAN" (AAAI 2023).
"""

from .gan import PlgGan, PlgGanConfig, load_plg_gan, train_plg_gan
from .inversion import PLG, PlgConfig, invert_plg
from .loss import max_margin_loss
from .network import ConditionalGenerator, ProjectionDiscriminator

__all__ = [
    "PLG",
    "ConditionalGenerator",
    "PlgConfig",
    "PlgGan",
    "PlgGanConfig",
    "ProjectionDiscriminator",
    "invert_plg",
    "load_plg_gan",
    "max_margin_loss",
    "train_plg_gan",
]
