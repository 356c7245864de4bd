# SPDX-License-Identifier: Apache-2.0
"""Picture of reconstructions beside their nearest private training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from bido_ext.lab.atomic import replacing
from bido_ext.lab.judge.distances import nearest_private
from bido_ext.lab.judge.embedding import PrivateReference, classify, embed

RECOGNISED, MISSED = (34, 139, 80), (200, 60, 50)
_BORDER, _GAP = 2, 4


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

    The first ``shown`` restarts are drawn, not the best ones.  A reconstruction has a green frame
    where the evaluator labels it as the class and a red one where not; "nearest" is the private
    training image of that class with the smallest distance in the evaluator's feature space.

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
    labels = [int(label) for label in classes]
    images = images[:shown]
    flat, target = images.flatten(0, 1), torch.tensor(labels).repeat(len(images))
    recognised = classify(evaluator, flat).argmax(dim=1) == target
    _, rows = nearest_private(embed(evaluator, flat), target, reference)
    pairs = [
        np.concatenate(
            [
                _framed(flat[i], RECOGNISED if recognised[i] else MISSED),
                _framed(reference.images[rows[i]], (255, 255, 255)),
            ],
            axis=1,
        )
        for i in range(len(flat))
    ]
    lines = [_joined(pairs[column :: len(labels)], axis=1) for column in range(len(labels))]
    _write(path, _joined(lines, axis=0), lines[0].shape[0], labels)
    return path


def _framed(image: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[:2]
    frame = np.empty((height + 2 * _BORDER, width + 2 * _BORDER, 3), dtype=np.uint8)
    frame[:] = colour
    frame[_BORDER:-_BORDER, _BORDER:-_BORDER] = pixels
    return frame


def _joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
    shape = list(parts[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=axis)


def _write(path: Path, canvas: np.ndarray, row_height: int, labels: Sequence[int]) -> None:
    height, width = canvas.shape[:2]
    scale = 2.0 / 100  # inches a pixel: every pixel is drawn twice at 100 dots an inch
    figure = Figure(figsize=(width * scale + 0.9, height * scale + 0.1), dpi=100)
    FigureCanvasAgg(figure)  # no pyplot: no display needed and no figure left open
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (
            0.8 / total_width,
            0.05 / total_height,
            width * scale / total_width,
            height * scale / total_height,
        )
    )
    axes.imshow(canvas, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks(
        [i * (row_height + _GAP) + row_height / 2 for i in range(len(labels))],
        [f"class {label}" for label in labels],
        fontsize=13,
    )
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
