# SPDX-License-Identifier: Apache-2.0
"""VGG16 with batch norm, the CelebA target of the BiDO experiments (Peng et al., KDD 2022)."""

from types import MappingProxyType

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from .base import FeatureClassifier, check_size, scaled

# The last max-pool is watched behind the batch norm of the flattened features.
_POOLS = (6, 13, 23, 33)


class VGG16(FeatureClassifier):
    """torchvision's convolutions, then batch norm of the flattened features and one linear layer.

    At 64 pixels the features are 2 x 2 x 512 = 2048, at 32 pixels (CIFAR-10) 512.

    Args:
        num_classes: outputs.
        image_size: side of the images, a multiple of 32.
        width: multiplies all channel counts.
        feature_norm: the batch norm of the features; MID's version has none.
    """

    head_parts = ("norm", "head")
    file_prefixes = MappingProxyType({"features.": "backbone.", "classifier.": "head."})

    def __init__(
        self,
        num_classes: int,
        *,
        image_size: int = 64,
        width: float = 1.0,
        feature_norm: bool = True,
    ) -> None:
        check_size("vgg16", image_size, 32)
        channels = [c if isinstance(c, str) else scaled(c, width) for c in cfgs["D"]]
        feature_dim = scaled(512, width) * (image_size // 32) ** 2
        super().__init__(
            feature_dim,
            num_classes,
            (3, image_size, image_size),
            taps=(*(f"backbone.{i}" for i in _POOLS), "norm"),
            bottleneck_dim=feature_dim // 2,
        )
        self.backbone = make_layers(channels, batch_norm=True)
        for module in self.backbone:
            if isinstance(module, nn.Conv2d):  # as torchvision starts these layers
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.norm: nn.Module = nn.Identity()
        if feature_norm:
            self.norm = nn.BatchNorm1d(feature_dim)
            self.norm.bias.requires_grad_(False)  # stays 0, as published

    def embed(self, x: Tensor) -> Tensor:
        """Batch-normalised features (n, feature_dim)."""
        return self.norm(self.backbone(x).flatten(1))
