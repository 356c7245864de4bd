# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2's generator: mapping network, and synthesis with skip connections."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import GAIN, EqualLinear, StyledConv, ToRgb, upsample

MAPPING_LR = 0.01


class StyleGan2(nn.Module):
    """Noise -> w (``mapping``) -> images (``synthesis``).

    Args:
        resolution: side of the images, a power of two, at least 8.
        channels: resolution -> channels of that block, from 4 to ``resolution``.
        z_dim, w_dim: widths of noise and latents.
        mapping_layers: of the mapping network.
        image_channels: of the images.
        truncation: psi: ``mapping`` returns w_avg + psi (w - w_avg); 1 is no truncation.

    Attributes:
        mapping: noise (n, z_dim) -> one truncated w for each image (n, w_dim).
        synthesis: w (n, w_dim), or one for each layer (n, num_ws, w_dim) -> images. Not clamped:
            outside of [0, 1] an image still has a gradient.
        num_ws: how many layers take a w of their own.
        layers: resolutions; see ``LayeredGenerator``.

    Raises:
        ValueError: a resolution that is no power of two, or channels that do not fit it.
    """

    def __init__(
        self,
        resolution: int,
        channels: Mapping[int, int],
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        image_channels: int = 3,
        truncation: float = 1.0,
    ) -> None:
        super().__init__()
        sides = [4 << i for i in range(max(2, resolution).bit_length() - 2)]
        if resolution < 8 or resolution != sides[-1]:
            raise ValueError(f"resolution must be a power of two of at least 8, got {resolution}")
        if sorted(channels) != sides:
            raise ValueError(f"channels must be given for {sides}, got {sorted(channels)}")
        self.z_dim, self.w_dim = z_dim, w_dim
        self.shape = (image_channels, resolution, resolution)
        self.num_ws, self.layers = 2 * len(sides), len(sides)
        # Modules under the names of the release, which are also the methods of LatentGenerator.
        self.mapping = _Mapping(z_dim, w_dim, mapping_layers, truncation)
        self.synthesis = _Synthesis(sides, channels, w_dim, image_channels)

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))

    def through(
        self, first: int, last: int, latents: Tensor, state: Sequence[Tensor]
    ) -> list[Tensor]:
        """See ``LayeredGenerator``; the state is (features, image so far)."""
        x, image = state if first else (None, None)
        return list(self.synthesis.through(first, last, latents, x, image))

    def image(self, state: Sequence[Tensor]) -> Tensor:
        """See ``LayeredGenerator``."""
        return as_image(state[1])


def as_image(made: Tensor) -> Tensor:
    """The network's [-1, 1] -> [0, 1]."""
    return made / 2 + 0.5


class _Mapping(nn.Module):
    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int, truncation: float) -> None:
        super().__init__()
        self.layers, self.truncation = layers, truncation
        for i in range(layers):
            self.add_module(f"fc{i}", EqualLinear(w_dim if i else z_dim, w_dim, MAPPING_LR))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.layers):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), 0.2) * GAIN
        return self.w_avg + self.truncation * (x - self.w_avg)


class _Block(nn.Module):
    """One resolution: the features doubled and convolved, the image doubled and added to."""

    def __init__(
        self, inputs: int | None, outputs: int, side: int, w_dim: int, image_channels: int
    ) -> None:
        super().__init__()
        self.is_first = inputs is None
        if inputs is None:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        else:
            self.conv0 = StyledConv(inputs, outputs, w_dim, side, up=True)
        self.conv1 = StyledConv(outputs, outputs, w_dim, side)
        self.torgb = ToRgb(outputs, image_channels, w_dim)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        ws = list(ws)
        x = self.const.expand(len(ws[0]), -1, -1, -1) if self.is_first else self.conv0(x, ws.pop(0))
        x = self.conv1(x, ws.pop(0))
        added = self.torgb(x, ws.pop(0))
        return x, added if image is None else upsample(image) + added


class _Synthesis(nn.Module):
    def __init__(
        self, sides: list[int], channels: Mapping[int, int], w_dim: int, image_channels: int
    ) -> None:
        super().__init__()
        self.sides, self.num_ws, self.w_dim = sides, 2 * len(sides), w_dim
        before = None
        for side in sides:
            self.add_module(f"b{side}", _Block(before, channels[side], side, w_dim, image_channels))
            before = channels[side]

    def forward(self, ws: Tensor) -> Tensor:
        return as_image(self.through(0, len(self.sides), ws, None, None)[1])

    def through(
        self, first: int, last: int, ws: Tensor, x: Tensor | None, image: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Blocks ``first`` to ``last - 1``, at least one."""
        if ws.dim() == 2:
            ws = ws[:, None].expand(-1, self.num_ws, -1)
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"latents must be (n, {self.w_dim}) or (n, {self.num_ws}, {self.w_dim}), got "
                f"{tuple(ws.shape)}"
            )
        for number in range(first, last):
            start, convolutions = (2 * number - 1, 2) if number else (0, 1)
            # The image's layer shares its w with the next block's first convolution.
            used = list(ws[:, start : start + convolutions + 1].unbind(1))
            x, image = self.get_submodule(f"b{self.sides[number]}")(x, image, used)
        assert x is not None
        assert image is not None
        return x, image
