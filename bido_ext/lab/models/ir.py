# SPDX-License-Identifier: Apache-2.0
"""Improved residual networks for faces (IR-50, IR-152 of ArcFace and face.evoLVe)."""

from itertools import accumulate

from torch import Tensor, nn

from .base import FeatureClassifier, check_size, scaled

_UNITS = {50: (3, 4, 14, 3), 152: (3, 8, 36, 3)}
_CHANNELS = (64, 128, 256, 512)


class Unit(nn.Module):
    """Batch norm, two 3 x 3 convolutions around a PReLU, batch norm, plus the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class IRClassifier(FeatureClassifier):
    """An IR backbone, 512 features, and a linear head.

    The modules carry the names of the published backbone files, so those load as they are; at
    another image size ``output_layer`` has another shape and must be named to be started anew.
    The four ends of the stages and the features are watched.

    Args:
        num_classes: outputs.
        image_size: side of the images, a multiple of 16.
        depth: 50 or 152.
        width: multiplies all channel counts.
    """

    def __init__(
        self, num_classes: int, *, image_size: int = 64, depth: int = 50, width: float = 1.0
    ) -> None:
        check_size("an IR network", image_size, 16)
        if depth not in _UNITS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _UNITS))}, got {depth}")
        channels = [scaled(c, width) for c in _CHANNELS]
        ends = [end - 1 for end in accumulate(_UNITS[depth])]
        feature_dim = channels[-1]
        super().__init__(
            feature_dim,
            num_classes,
            (3, image_size, image_size),
            taps=(*(f"body.{end}" for end in ends), "output_layer"),
        )
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.PReLU(channels[0]),
        )
        units, inputs = [], channels[0]
        for outputs, count in zip(channels, _UNITS[depth], strict=True):
            units += [Unit(inputs, outputs, 2)]
            units += [Unit(outputs, outputs, 1) for _ in range(count - 1)]
            inputs = outputs
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(inputs * (image_size // 16) ** 2, feature_dim),
            nn.BatchNorm1d(feature_dim),
        )

    def embed(self, x: Tensor) -> Tensor:
        """Features (n, feature_dim)."""
        return self.output_layer(self.body(self.input_layer(x)))
