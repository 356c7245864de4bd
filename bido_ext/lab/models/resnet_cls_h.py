# SPDX-License-Identifier: Apache-2.0
"""The classifier of the VMI experiments (Wang et al., NeurIPS 2021): a ResNet with a narrow head."""

from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .base import FeatureClassifier, check_size

_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    10: (BasicBlock, [1, 1, 1, 1]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}


class ResNetClsH(FeatureClassifier):
    """torchvision's ResNet, then batch norm, ``fc1`` to ``zdim``, batch norm and the linear head.

    The published network ends in a log-softmax; logits give the same cross-entropy and the same
    probabilities. Seven layers are watched: the five stages of the backbone, ``fc1``, ``norm2``.

    Args:
        num_classes: outputs.
        image_size: side of the images, a multiple of 32.
        depth: 10, 34 (published) or 50.
        zdim: width of the features.
    """

    head_parts = ("norm1", "fc1", "norm2", "head")
    file_prefixes = MappingProxyType({"fc.": "head.", "": "backbone."})

    def __init__(
        self, num_classes: int, *, image_size: int = 64, depth: int = 34, zdim: int = 50
    ) -> None:
        check_size("resnet-clsh", image_size, 32)
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth}")
        stages = ("maxpool", "layer1", "layer2", "layer3", "layer4")
        super().__init__(
            zdim,
            num_classes,
            (3, image_size, image_size),
            taps=(*(f"backbone.{stage}" for stage in stages), "fc1", "norm2"),
        )
        block, counts = _BLOCKS[depth]
        self.backbone = ResNet(block, counts)
        pooled = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.norm1 = nn.BatchNorm1d(pooled)
        self.fc1 = nn.Linear(pooled, zdim)
        self.norm2 = nn.BatchNorm1d(zdim)

    def embed(self, x: Tensor) -> Tensor:
        """Features (n, zdim)."""
        hidden = self.fc1(self.norm1(F.relu(self.backbone(x))))
        return self.norm2(F.relu(hidden))
