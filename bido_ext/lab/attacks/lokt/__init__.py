# SPDX-License-Identifier: Apache-2.0
"""LOKT: a GAN and surrogates that learn from a target's labels alone, inverted in its place.

Nguyen et al., "Label-Only Model Inversion Attacks via Knowledge Transfer" (NeurIPS 2023).
"""

from .gan import LoktGan, LoktGanConfig, load_lokt_gan, train_lokt_gan
from .inversion import LOKT, LoktConfig, invert_lokt
from .network import AuxiliaryDiscriminator

__all__ = [
    "LOKT",
    "AuxiliaryDiscriminator",
    "LoktConfig",
    "LoktGan",
    "LoktGanConfig",
    "invert_lokt",
    "load_lokt_gan",
    "train_lokt_gan",
]
