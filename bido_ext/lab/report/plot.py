# SPDX-License-Identifier: Apache-2.0
"""The trade-off plot: natural accuracy against attack accuracy, one line for each sweep."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bido_ext._drawing import look, new_figure, svg_of
from bido_ext.lab.report.label_places import PointLabel, place_labels
from bido_ext.lab.report.picture_files import save_picture
from bido_ext.lab.report.results import Results, Row

_TITLE = "Natural accuracy against attack accuracy"

# Colour and marker of a defence; the marker repeats the distinction for colour-blind readers.
_STYLES = {
    "none": ("ink", "*"),
    "mid": ("orange", "s"),
    "unilateral": ("pink", "^"),
    "bido-hsic": ("blue", "o"),
    "bido-coco": ("green", "D"),
}
# The others, in the order in which a run has them.
_MORE = (
    ("vermilion", "v"),
    ("sky", "P"),
    ("brown", "X"),
    ("violet", "<"),
    ("olive", ">"),
    ("grey", "p"),
)
_LEAST_SPAN = 1.0  # points of natural accuracy
_ALL = 60.0  # attack accuracy in percent from which on the whole scale to 100 is shown


def tradeoff_figure(results: Results, theme: str = "light") -> Figure:
    """Figure with a horizontal bar for each 95% interval; up and left is better.

    Args:
        results: The run.
        theme: "light" or "dark".
    """
    with look(theme) as colour:
        figure = new_figure(8.2, 4.8)
        axes = figure.add_subplot()
        styles = styles_of(results)
        labels: list[PointLabel] = []
        points: list[tuple[float, float]] = []
        lines: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for defence, (name, marker) in styles.items():
            rows = [row for row in results.rows if row.defence == defence]
            if defence == "none":  # the controls lead to the model that was trained to the end
                rows.sort(key=lambda row: row.stop)
            own = _draw_sweep(axes, rows, colour(name), marker)
            points += own
            lines += pairwise(own)
            for (x, y), row in zip(own, rows, strict=True):
                low, high = 100 * row.attack.ci_low, 100 * row.attack.ci_high
                lines.append(((low, y), (high, y)))
                if told := label_of(row):
                    labels.append(PointLabel(told, (x, y), colour(name)))
        _draw_chance(axes, 100 * results.task["chance_attack_accuracy"], colour)
        axes.set_xlim(*_attack_limits(results))
        axes.margins(y=0.18)
        low, high = axes.get_ylim()
        if high - low < _LEAST_SPAN:  # do not blow up differences of a few images
            middle = (low + high) / 2
            low, high = middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2
        axes.set_ylim(max(low, -4), high)
        axes.set_xlabel("attack accuracy, % (bar: 95% interval; further left is safer)")
        axes.set_ylabel("natural accuracy, %")
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=5)
        place_labels(axes, labels, points, lines)
    return figure


def _attack_limits(results: Results) -> tuple[float, float]:
    """0 to 100 %, or less where every attack is weak, as on faces: the rows would lie on each other."""
    most = max(row.attack.ci_high for row in results.rows)
    right = 110 * max(most, results.task["chance_attack_accuracy"])
    right = 100.0 if right > _ALL else max(right, 10.0)
    return -0.02 * right, 1.02 * right


def styles_of(results: Results) -> dict[str, tuple[str, str]]:
    """Defence -> name of its colour, and its marker, in the order of the run."""
    defences = list(dict.fromkeys(row.defence for row in results.rows))
    others = [defence for defence in defences if defence not in _STYLES]
    styles = {**_STYLES, **dict(zip(others, cycle(_MORE), strict=False))}
    return {defence: styles[defence] for defence in defences}


def label_of(row: Row) -> str:
    """Weights of a row, or the share after which its training was stopped; may be empty."""
    told = ", ".join(f"{value:g}" for value in row.weights.values())
    return told or (f"{100 * row.stop:g}%" if row.stop < 1 else "")


def _draw_sweep(axes: Axes, rows: list[Row], colour: str, marker: str) -> list[tuple[float, float]]:
    x = [100 * row.attack.attack_accuracy for row in rows]
    y = [100 * row.natural_accuracy for row in rows]
    low = [100 * max(0.0, row.attack.attack_accuracy - row.attack.ci_low) for row in rows]
    high = [100 * max(0.0, row.attack.ci_high - row.attack.attack_accuracy) for row in rows]
    axes.errorbar(
        x,
        y,
        xerr=(low, high),
        color=colour,
        marker=marker,
        markersize=12 if marker == "*" else 6,
        linestyle="-",
        linewidth=1.2,
        elinewidth=0.9,
        capsize=3,
        zorder=3,
        label=rows[0].label,
    )
    return list(zip(x, y, strict=True))


def _draw_chance(axes: Axes, chance: float, colour: Callable[[str], str]) -> None:
    axes.axvline(chance, color=colour("quiet"), linestyle=":", linewidth=1)
    axes.annotate(
        "chance",
        (chance, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 4),
        textcoords="offset points",
        color=colour("quiet"),
        fontsize=8,
    )


def save_tradeoff(results: Results, path: Path) -> Path:
    """Write the plot, atomically, and return its path.

    Args:
        results: The run.
        path: ``.svg`` gives a picture that follows the reader's theme, anything else a PNG on white.
    """
    return save_picture(tradeoff_figure(results), path, _TITLE, dpi=160)


def tradeoff_svg(results: Results) -> str:
    """The plot as SVG, sharp at any zoom, light or dark as the reader has it."""
    return svg_of(tradeoff_figure(results), _TITLE)
