# SPDX-License-Identifier: Apache-2.0
"""What every classifier here shares: ``features`` (penultimate) and ``forward`` (logits)."""

from torch import Tensor, nn


class FeatureClassifier(nn.Module):
    """A convolutional body and one linear head.

    Subclasses set ``layer1``, ``layer2``, ... in order of use, and ``feature_dim``.
    """

    feature_dim: int
    layers: tuple[str, ...]

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (n, feature_dim) of images (n, 1, height, width) in [0, 1]."""
        for name in self.layers:
            x = getattr(self, name)(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        return self.head(self.features(x))


def conv_block(
    inputs: int, outputs: int, kernel: int, *, pad: int = 0, pool: bool
) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU 0.2, and a halving max-pool if ``pool``."""
    block: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=pad),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    ]
    return nn.Sequential(*block, *([nn.MaxPool2d(2)] if pool else []))
