# SPDX-License-Identifier: Apache-2.0
"""One image file -> bytes of the size that the experiment wants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class Preparation:
    """What is done to every file.

    Attributes:
        image_size: side of the result.
        crop: side of the square cut out of the middle first; 0: the largest square there is.
        channels: 3 for colour, 1 for grey.
    """

    image_size: int
    crop: int = 0
    channels: int = 3

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size must be at least 8 pixels, got {self.image_size}")
        if self.crop < 0:
            raise ValueError(f"crop must be at least 0, got {self.crop}")


def read_image(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    """Decode, crop and resize one file: (channels, image_size, image_size) uint8.

    Raises:
        ValueError: The file cannot be read to its end, or is smaller than the crop; it is named.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB" if preparation.channels == 3 else "L")
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name)
        raise ValueError(f"{path} is not a readable image ({reason})") from error
    width, height = image.size
    side = preparation.crop or min(width, height)
    if side > min(width, height):
        raise ValueError(
            f"{path} has {width} x {height} pixels, the crop of {side} does not fit into it"
        )
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != preparation.image_size:
        size = (preparation.image_size, preparation.image_size)
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if preparation.channels == 1 else pixels.transpose(2, 0, 1)
