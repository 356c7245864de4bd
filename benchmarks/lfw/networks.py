# SPDX-License-Identifier: Apache-2.0
"""The classifier under attack: a small network for 64 x 64 faces."""

from __future__ import annotations

from torch import nn

from bido_ext.lab.models.base import FeatureClassifier, conv_block

SHAPE = (3, 64, 64)
TAPS = ("layer1", "layer2", "layer3", "layer4", "layer5")


class SlimVGG(FeatureClassifier):
    """Five blocks convolution - batch norm - leaky ReLU - pool, 64 -> 2 pixels, then dropout."""

    layers = (*TAPS, "regularise")

    def __init__(self, num_classes: int, width: int = 16, dropout: float = 0.5) -> None:
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        super().__init__(4 * channels[-1], num_classes, SHAPE, TAPS)
        for name, inputs, outputs in zip(TAPS, channels[:-1], channels[1:], strict=True):
            setattr(self, name, conv_block(inputs, outputs, 3, pad=1, pool=True))
        self.regularise = nn.Sequential(nn.Flatten(), nn.Dropout(dropout))
