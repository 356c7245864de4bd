# SPDX-License-Identifier: Apache-2.0
"""MCNN: the MNIST target of the BiDO experiments (Peng et al., KDD 2022), 32 x 32 grey images."""

from .base import FeatureClassifier, conv_block


class MCNN(FeatureClassifier):
    """Three convolutions: 32 -> 28 -> 14 -> 10 -> 5 -> 1 pixels, 256 features."""

    layers = ("layer1", "layer2", "layer3")

    def __init__(self, num_classes: int) -> None:
        super().__init__(256, num_classes, (1, 32, 32))
        self.layer1 = conv_block(1, 64, 7, pad=1, pool=True)
        self.layer2 = conv_block(64, 128, 5, pool=True)
        self.layer3 = conv_block(128, 256, 5, pool=False)
