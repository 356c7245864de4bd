# SPDX-License-Identifier: Apache-2.0
"""A picture of what was rebuilt: one row for each attack of a classifier, no private image in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from benchmarks.lfw.cells import Cell
from benchmarks.lfw.judge import FaceJudge
from bido_ext.lab.attacks.reconstructions import load_reconstructions
from bido_ext.lab.data.atomic import replacing
from bido_ext.lab.judging import classify

PEOPLE = 14  # the first ones, none chosen by its looks
RECOGNISED, MISSED = (34, 139, 80), (225, 225, 225)
BORDER = 3


def save_pictures(judge: FaceJudge, work: Path, cells: Sequence[Cell], path: Path) -> Path:
    """Write a PNG: the first restart of the first people, a green frame where the judge agrees.

    Without the reconstructions of every pictured cell in ``work`` the picture stays as it is.
    """
    lines, labels = [], []
    cells = [cell for cell in cells if cell.pictured]
    if not all(_file(work, cell, attack).is_file() for cell in cells for attack in cell.attacks):
        return path
    for cell in cells:
        for attack in cell.attacks:
            found = load_reconstructions(_file(work, cell, attack)).images.float()
            top1 = classify(judge, found.flatten(0, 1)).argmax(1).view(found.shape[:2])
            hits = top1[0] == torch.arange(found.shape[1])
            lines.append(_line(found[0, :PEOPLE], hits[:PEOPLE]))
            weights = " ".join(f"{value:g}" for value in cell.weights.values())
            epochs = f" {cell.epochs} epochs" if cell.epochs else ""
            labels.append(f"{cell.defence} {weights}{epochs}\n{attack}, seed {cell.seed}")
    if not lines:
        return path
    canvas = torch.cat(lines, 1).permute(1, 2, 0).numpy()
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / 100 + 1.5, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (1.5 / figure.get_size_inches()[0], 0, width / 100 / (width / 100 + 1.5), 1)
    )
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    row = height / len(lines)
    for i, label in enumerate(labels):
        axes.text(-8, (i + 0.5) * row, label, ha="right", va="center", fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
    return path


def _file(work: Path, cell: Cell, attack: str) -> Path:
    return work / "attacks" / attack / cell.name / "reconstructions.pt"


def _line(images: Tensor, hits: Tensor) -> Tensor:
    """Framed images side by side, uint8 (3, height, width)."""
    framed = torch.empty(len(images), 3, *(side + 2 * BORDER for side in images.shape[2:]))
    for frame, image, hit in zip(framed, images, hits.tolist(), strict=True):
        frame[:] = torch.tensor(RECOGNISED if hit else MISSED).view(3, 1, 1) / 255
        frame[:, BORDER:-BORDER, BORDER:-BORDER] = image.clamp(0, 1)
    grid = make_grid(framed, nrow=len(images), padding=2, pad_value=1.0)
    return (grid * 255).round().byte()
