# SPDX-License-Identifier: Apache-2.0
"""What every classifier here shares: ``features`` (penultimate) and ``forward`` (logits)."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (mean, standard deviation) a channel: what the network sees of images in [0, 1].
PIXEL_RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,), (1.0,)),
    "signed": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class FeatureClassifier(nn.Module):
    """A body and one linear head; images enter as float32 in [0, 1] whatever the network sees.

    Subclasses set what their ``embed`` uses: either ``layer1``, ``layer2``, ... in order of use,
    named in ``layers``, or modules of their own with an ``embed`` of their own.

    Attributes:
        feature_dim: width of ``features``.
        input_shape: (channels, height, width).
        taps: names of the modules whose outputs BiDO watches.
        bottleneck_dim: width of MID's code.
        resize: whether images of another size are resized on entry, for evaluation classifiers
            that look at larger images than the attack makes.
        head_parts: modules that a file of pretrained weights does not have for new classes.
        file_ignored: beginnings of names in such files that have no place here.
        file_prefixes: beginnings of names in files of other projects -> names here.
    """

    layers: tuple[str, ...] = ()
    head_parts: tuple[str, ...] = ("head",)
    file_ignored: tuple[str, ...] = ()
    file_prefixes: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        input_shape: tuple[int, int, int],
        taps: tuple[str, ...] = (),
        bottleneck_dim: int = 128,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.feature_dim = feature_dim
        self.input_shape = input_shape
        self.taps = taps or self.layers
        self.bottleneck_dim = bottleneck_dim
        self.resize = False
        self.head: nn.Module = nn.Linear(feature_dim, num_classes)
        self.set_pixel_range("unit")

    def set_pixel_range(self, name: str) -> None:
        """Choose what the network sees of images in [0, 1]: a key of ``PIXEL_RANGES``."""
        if name not in PIXEL_RANGES:
            raise ValueError(f"pixel_range must be one of {', '.join(PIXEL_RANGES)}, got {name!r}")
        for key, values in zip(("pixel_mean", "pixel_std"), PIXEL_RANGES[name], strict=True):
            if len(values) not in (1, self.input_shape[0]):
                raise ValueError(
                    f"pixel_range {name!r} is for {len(values)} channels, the model has "
                    f"{self.input_shape[0]}"
                )
            # Not persistent: the range belongs to the configuration, not to the weights.
            value = torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(key, value, persistent=False)
        self.pixel_range = name

    def seen(self, x: Tensor) -> Tensor:
        """The input as the network sees it; BiDO's X. ``x``: (n, channels, h, w) in [0, 1]."""
        if self.resize and x.shape[-2:] != self.input_shape[-2:]:
            x = F.interpolate(x, self.input_shape[-2:], mode="bilinear", antialias=True)
        if self.pixel_range == "unit":
            return x
        return (x - self.get_buffer("pixel_mean")) / self.get_buffer("pixel_std")

    def embed(self, x: Tensor) -> Tensor:
        """Penultimate features (n, feature_dim) of what ``seen`` returned."""
        for name in self.layers:
            x = getattr(self, name)(x)
        return x.flatten(1)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (n, feature_dim) of images (n, channels, height, width)."""
        return self.embed(self.seen(x))

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


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, at least 4.

    Raises:
        ValueError: If ``width`` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return max(4, round(channels * width))


def check_size(arch: str, image_size: int, multiple: int) -> None:
    """Raises ``ValueError`` unless ``image_size`` is a positive multiple of ``multiple``."""
    if image_size < multiple or image_size % multiple:
        raise ValueError(
            f"image_size of {arch} must be a multiple of {multiple} pixels, got {image_size}"
        )
