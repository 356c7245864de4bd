# SPDX-License-Identifier: Apache-2.0
"""Synthetic digits, so that a smoke run needs no data and no network.

Seven-segment digits, shifted and noisy, in the shape of MNIST: they exercise the whole path and
say nothing about any defence.
"""

from __future__ import annotations

import numpy as np

from bido_ext.lab.data.mnist import RawDigits

# Segments as (row, column, height, width) in a 20 x 12 box: top, middle, bottom, the four sides.
_SEGMENTS = {
    "a": (0, 0, 2, 12),
    "g": (9, 0, 2, 12),
    "d": (18, 0, 2, 12),
    "f": (0, 0, 10, 2),
    "b": (0, 10, 10, 2),
    "e": (10, 0, 10, 2),
    "c": (10, 10, 10, 2),
}
_DIGITS = (
    "abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg",
)  # fmt: skip


def synthetic_digits(train: int = 600, test: int = 200, seed: int = 0) -> RawDigits:
    """Draw ``train + test`` digits, 28 x 28 uint8, the classes in turn.

    Raises:
        ValueError: If ``train`` or ``test`` is below 10, one image a class.
    """
    if min(train, test) < 10:
        raise ValueError(f"train and test must be at least 10, got {train} and {test}")
    random = np.random.default_rng(seed)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    images = np.stack([_draw(int(label), random) for label in labels])
    return RawDigits(images[:train], labels[:train], images[train:], labels[train:])


def _draw(digit: int, random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((28, 28))
    top, left = 4 + random.integers(-3, 4), 8 + random.integers(-5, 6)
    brightness = random.uniform(150, 235)
    for name in _DIGITS[digit]:
        row, column, height, width = _SEGMENTS[name]
        canvas[top + row : top + row + height, left + column : left + column + width] = brightness
    return (canvas + random.uniform(0, 20, canvas.shape)).astype(np.uint8)
