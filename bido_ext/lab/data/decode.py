# SPDX-License-Identifier: Apache-2.0
"""One image file -> bytes of the size that the experiment wants."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .names import shown

# The plugins of Pillow for the suffixes of ``listing``: whatever a file is called, no other is tried.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
_MANY_PIXELS = 16_000_000
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_one_large_image = threading.Lock()  # a dozen of them at once would take gigabytes


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


@dataclass(frozen=True)
class Decoded:
    """A file as it is looked at.

    Attributes:
        image: 8-bit "L" or "RGB", upright, nothing transparent.
        transparent: whether pixels of the file let something through; white lies behind them.
        frames: pictures in the file, of which ``image`` is the first.
    """

    image: Image.Image
    transparent: bool
    frames: int


def read_image(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    """Decode, crop and resize one file: (channels, image_size, image_size) uint8.

    Raises:
        ValueError: The file cannot be read to its end, or is smaller than the crop; it is named.
    """
    image = decode(path).image
    width, height = image.size
    side = preparation.crop or min(width, height)
    if side > min(width, height):
        raise ValueError(
            f"{shown(path)} has {width} x {height} pixels, the crop of {side} does not fit into it"
        )
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    image = image.convert("RGB" if preparation.channels == 3 else "L")
    if side != preparation.image_size:
        size = (preparation.image_size, preparation.image_size)
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if preparation.channels == 1 else pixels.transpose(2, 0, 1)


def decode(path: Path) -> Decoded:
    """Read one file as a viewer shows it.

    16 bits a pixel become 8 of the same brightness, the orientation of EXIF is applied, and what is
    transparent is laid on white.

    Raises:
        ValueError: It is no regular file, too large, or cannot be read to its end; it is named.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise ValueError("no regular file")
        with Image.open(path, formats=FORMATS) as file:
            pixels = file.width * file.height
            if pixels > MOST_PIXELS:
                raise ValueError(_too_large(f"{file.width} x {file.height}"))
            if pixels <= _MANY_PIXELS:
                return _seen(file)
            with _one_large_image:
                return _seen(file)
    except Image.DecompressionBombError:
        reason = _too_large("twice as many or more")
    except Exception as error:  # damaged files make the plugins raise whatever they meet
        reason = str(error).replace(str(path), path.name) or type(error).__name__
    raise ValueError(f"{shown(path)} is not a readable image ({shown(reason)})") from None


def _too_large(size: str) -> str:
    return f"{size} pixels, {MOST_PIXELS // 10**6} million are read at most; make it smaller"


def _seen(file: Image.Image) -> Decoded:
    frames = int(getattr(file, "n_frames", 1))
    file.load()
    image = _eight_bits(ImageOps.exif_transpose(file), file)
    if not (image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info):
        if image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        return Decoded(image, False, frames)
    image = image.convert("RGBA")
    behind = Image.new("RGBA", image.size, "white")
    transparent = bool((np.asarray(image.getchannel("A")) < 255).any())
    return Decoded(Image.alpha_composite(behind, image).convert("RGB"), transparent, frames)


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """``image`` with 8 bits a channel; Pillow's own conversion makes all but black white.

    Args:
        image: the pixels.
        file: where they come from, with its format and tags.

    Raises:
        ValueError: Numbers whose black and white the file does not tell.
    """
    if image.mode == "F" or (image.mode == "I" and file.format not in ("PNG", "PPM")):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise ValueError(
            f"its {kind} values have no known white; save it with 8 or 16 bits a channel"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.uint32)
    through = image.info.get("transparency")
    alpha = None if through is None else np.where(values == through, 0, 255).astype(np.uint8)
    white = 65535
    if file.format == "TIFF":
        tags = getattr(file, "tag_v2", {})
        white = 2 ** int(tags.get(_BITS, (16,))[0]) - 1  # 12 bits are not stretched to 16
        if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow regards in 8 bits alone
            values = white - values.clip(0, white)
    grey = Image.fromarray(((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8))
    if alpha is not None:
        grey.putalpha(Image.fromarray(alpha))
    return grey
