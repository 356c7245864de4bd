# SPDX-License-Identifier: Apache-2.0
"""SCNN: the evaluation classifier of the MNIST experiments, 32 x 32 grey images."""

from .base import FeatureClassifier, conv_block


class SCNN(FeatureClassifier):
    """Five convolutions: 32 -> 28 -> 14 -> 10 -> 5 -> 1 pixels, 512 features."""

    layers = ("layer1", "layer2", "layer3", "layer4", "layer5")

    def __init__(self, num_classes: int) -> None:
        super().__init__(512, num_classes, (1, 32, 32))
        self.layer1 = conv_block(1, 32, 7, pad=1, pool=True)
        self.layer2 = conv_block(32, 64, 5, pool=True)
        self.layer3 = conv_block(64, 128, 5, pool=False)
        self.layer4 = conv_block(128, 256, 3, pad=1, pool=False)
        self.layer5 = conv_block(256, 512, 3, pad=1, pool=False)
