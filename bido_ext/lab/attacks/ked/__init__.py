# SPDX-License-Identifier: Apache-2.0
"""KED-MI: a GAN distilled from the target, then a search over Gaussians in its latent space.

Chen et al., "Knowledge-Enriched Distributional Model Inversion Attacks" (ICCV 2021).
"""

from .gan import KedGan, KedGanConfig, load_ked_gan, train_ked_gan
from .inversion import KED, KedConfig, invert_ked
from .network import MinibatchDiscrimination, TargetDiscriminator

__all__ = [
    "KED",
    "KedConfig",
    "KedGan",
    "KedGanConfig",
    "MinibatchDiscrimination",
    "TargetDiscriminator",
    "invert_ked",
    "load_ked_gan",
    "train_ked_gan",
]
