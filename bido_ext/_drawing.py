# SPDX-License-Identifier: Apache-2.0
"""One look for all pictures, on a light and on a dark ground.

A figure of matplotlib is drawn within ``look(theme)`` and saved as PNG for one theme; ``svg_of`` makes one SVG
of it that follows the theme of the reader (``prefers-color-scheme``). SVG written by hand uses ``STYLE``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEMES = ("light", "dark")
#: Name -> on a light ground, on a dark one. The series are Okabe-Ito colours or near them, which colour-blind
#: readers tell apart. No light colour comes twice: ``svg_of`` finds the name by it.
COLOURS = {
    "ground": ("#ffffff", "#161b22"),
    "ink": ("#1f2933", "#e6edf3"),
    "quiet": ("#5b6773", "#9aa5b1"),
    "grid": ("#dfe3e8", "#30363d"),
    "natural": ("#0b5cad", "#6cb2f5"),
    "attack": ("#b3401f", "#ff9470"),
    "bars": ("#9db7d5", "#3f5f86"),
    "missing": ("#b0b0b1", "#5c5c5e"),
    "orange": ("#c98500", "#f0b429"),
    "pink": ("#b8588f", "#e39cc4"),
    "blue": ("#0072b2", "#4aa3ff"),
    "green": ("#009e73", "#2fc59b"),
    "vermilion": ("#d55e00", "#ff8a4c"),
    "sky": ("#2b8cc4", "#9bd7ff"),
    "brown": ("#8c510a", "#c99a5b"),
    "violet": ("#7b3294", "#c58fdc"),
    "olive": ("#8a7d00", "#d8ca3a"),
    "grey": ("#666667", "#b3b3b5"),
}
_VARIABLES = ["; ".join(f"--{name}: {pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1)]
#: CSS that names the colours: ``fill: var(--ink)``.
STYLE = (
    f":root {{ {_VARIABLES[0]} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_VARIABLES[1]} }} }}\n"
)


def colours_of(theme: str) -> Callable[[str], str]:
    """Function from a name in ``COLOURS`` to its hexadecimal value in a theme.

    Raises:
        ValueError: The theme is neither "light" nor "dark".
    """
    if theme not in THEMES:
        raise ValueError(f'theme must be "light" or "dark", got {theme!r}.')
    return lambda name: COLOURS[name][THEMES.index(theme)]


@contextmanager
def look(theme: str = "light") -> Iterator[Callable[[str], str]]:
    """Settings of matplotlib for figures made and drawn inside; gives ``colours_of(theme)``."""
    import matplotlib

    colour = colours_of(theme)
    with matplotlib.rc_context(
        {
            "figure.facecolor": colour("ground"),
            "savefig.facecolor": "auto",
            "axes.facecolor": colour("ground"),
            "axes.edgecolor": colour("quiet"),
            "axes.labelcolor": colour("ink"),
            "axes.titlecolor": colour("ink"),
            "axes.titlesize": 10,
            "axes.axisbelow": True,
            "text.color": colour("ink"),
            "xtick.color": colour("quiet"),
            "ytick.color": colour("quiet"),
            "xtick.labelcolor": colour("ink"),
            "ytick.labelcolor": colour("ink"),
            "grid.color": colour("grid"),
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.family": "DejaVu Sans",
            "font.size": 10,
        }
    ):
        yield colour


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, made without pyplot, so that it needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def svg_of(figure: Figure, title: str) -> str:
    """A figure drawn in the light theme as SVG that shows the reader's theme.

    Args:
        figure: Its colours are those of ``COLOURS``; others stay as they are.
        title: What a screen reader says.
    """
    import matplotlib

    buffer = io.BytesIO()
    # Text as paths, so that no font is needed; the same names of parts in each run.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "bido_ext"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue().decode("utf-8")
    names = {light: name for name, (light, _) in COLOURS.items()}
    text = re.sub(
        r"(?<=: )#[0-9a-f]{6}\b",
        lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0],
        text,
    )
    # A figure of matplotlib begins with a style of its own.
    return re.sub(r'<style type="text/css">', lambda m: f"{m[0]}\n{STYLE}", text, count=1)
