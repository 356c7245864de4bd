# SPDX-License-Identifier: Apache-2.0
"""LeNet3: a small LeNet for 28 x 28 grey images."""

from torch import nn

from .base import FeatureClassifier


class LeNet3(FeatureClassifier):
    """Two 5 x 5 convolutions (28 -> 14 -> 7 pixels) and one hidden layer of 1024 features."""

    layers = ("layer1", "layer2", "layer3")

    def __init__(self, num_classes: int) -> None:
        super().__init__(1024, num_classes, (1, 28, 28))
        self.layer1 = nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(nn.Flatten(), nn.Linear(7 * 7 * 64, 1024), nn.ReLU())
