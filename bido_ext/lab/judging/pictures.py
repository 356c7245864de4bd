# SPDX-License-Identifier: Apache-2.0
"""Picture of reconstructions beside their nearest private training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from bido_ext.lab.data.atomic import replacing
from bido_ext.lab.judging.distances import nearest_private
from bido_ext.lab.judging.embedding import PrivateReference, classify, embed

RECOGNISED, MISSED = (34, 139, 80), (200, 60, 50)
#: The ground is transparent, and the text readable on a white page and on a dark one.
_TEXT = (118, 128, 138)
#: A thousand classes would be a picture of gigabytes that nobody looks at.
MAX_CLASSES = 30
_BORDER, _GAP, _MARGIN = 2, 4, 110
_FONT, _LINE = 18, 26
_SMALL = 112  # images up to this side are drawn at twice their size


def save_comparison(
    path: Path,
    evaluator: nn.Module,
    images: Tensor,
    classes: Sequence[int] | Tensor,
    reference: PrivateReference,
    *,
    shown: int = 5,
) -> Path:
    """Write a PNG: for each class a row of pairs (reconstruction, nearest private image).

    The first ``shown`` restarts of the first ``MAX_CLASSES`` classes are drawn, not the best ones;
    the last line says if there are more.  A reconstruction has a green frame where the evaluator
    labels it as the class and a red one where not; "nearest" is the private training image of that
    class with the smallest distance in the evaluator's feature space.

    Args:
        path: PNG file to write (replaced atomically).
        evaluator: The evaluation classifier.
        images: ``(restarts, classes, channels, height, width)`` in [0, 1], 1 or 3 channels.
        classes: Private label of each column of ``images``.
        reference: The private training images.
        shown: Number of restarts to draw.

    Returns:
        ``path``.

    Raises:
        ValueError: If shapes disagree or a class has no private image.
    """
    every = [int(label) for label in classes]
    labels = every[:MAX_CLASSES]
    images = images[:shown, : len(labels)]
    flat, target = images.flatten(0, 1), torch.tensor(labels).repeat(len(images))
    recognised = classify(evaluator, flat).argmax(dim=1) == target
    _, rows = nearest_private(embed(evaluator, flat), target, reference)
    pairs = [
        np.concatenate(
            [
                _framed(flat[i], RECOGNISED if recognised[i] else MISSED),
                _framed(reference.images[rows[i]], None),
            ],
            axis=1,
        )
        for i in range(len(flat))
    ]
    lines = [_joined(pairs[column :: len(labels)], axis=1) for column in range(len(labels))]
    texts = [f"class {label}" for label in labels]
    if more := len(every) - len(labels):
        texts.append(f"and {more} more classes, not drawn")
    _write(path, lines, texts)
    return path


def _framed(image: Tensor, colour: tuple[int, int, int] | None) -> np.ndarray:
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[:2]
    frame = np.zeros((height + 2 * _BORDER, width + 2 * _BORDER, 4), dtype=np.uint8)
    if colour is not None:
        frame[:] = (*colour, 255)
    inside = frame[_BORDER:-_BORDER, _BORDER:-_BORDER]
    inside[..., :3], inside[..., 3] = pixels, 255
    times = 2 if height <= _SMALL else 1
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def _joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
    shape = list(parts[0].shape)
    shape[axis] = 2 * _GAP
    gap = np.zeros(shape, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=axis)


def _write(path: Path, lines: Sequence[np.ndarray], texts: Sequence[str]) -> None:
    """The lines below each other with their texts on the left; a text without a line stands below."""
    step = lines[0].shape[0] + 2 * _GAP
    size = (_MARGIN + lines[0].shape[1], step * len(lines) + _LINE * (len(texts) - len(lines)))
    canvas = Image.new("RGBA", size)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    for i, line in enumerate(lines):
        canvas.paste(Image.fromarray(line), (_MARGIN, i * step))
        middle = i * step + line.shape[0] // 2
        draw.text((4, middle), texts[i], _TEXT, font, anchor="lm")
    for text in texts[len(lines) :]:
        draw.text((4, step * len(lines)), text, _TEXT, font)
    with replacing(path) as partial:
        canvas.save(partial, format="PNG")
