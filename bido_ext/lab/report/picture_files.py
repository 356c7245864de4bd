# SPDX-License-Identifier: Apache-2.0
"""Pictures as files: PNG on a light ground, SVG in the reader's theme."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from bido_ext._drawing import svg_of
from bido_ext.lab.data.atomic import replacing


def save_picture(figure: Figure, path: Path, title: str, dpi: int = 130) -> Path:
    """Write a figure drawn in the light theme, atomically, and return its path.

    Args:
        figure: From within ``bido_ext._drawing.look()``.
        path: ``.svg`` gives a picture that follows the reader's theme, anything else a PNG.
        title: What a screen reader says of the SVG.
        dpi: Of the PNG.
    """
    with replacing(path) as partial:
        if path.suffix == ".svg":
            partial.write_text(svg_of(figure, title), encoding="utf-8")
        else:
            figure.savefig(partial, format="png", dpi=dpi)
    return path
