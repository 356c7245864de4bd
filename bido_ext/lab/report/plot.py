# SPDX-License-Identifier: Apache-2.0
"""The trade-off plot: natural accuracy against attack accuracy, one line for each sweep."""

from __future__ import annotations

import io
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bido_ext.lab.data.atomic import replacing
from bido_ext.lab.report.results import Results, Row

# Okabe-Ito colours: told apart by colour-blind readers; markers repeat the distinction. The last
# entry is where the weights are written: a corner of its own for each sweep, so labels meet less.
_STYLES = {
    "none": ("#000000", "*", (6, 6)),
    "mid": ("#e69f00", "s", (6, 6)),
    "unilateral": ("#cc79a7", "^", (-6, 6)),
    "bido-hsic": ("#0072b2", "o", (-6, -12)),
    "bido-coco": ("#009e73", "D", (6, -12)),
}
# The others, in the order in which a run has them.
_MORE = (
    ("#d55e00", "v", (6, 6)),
    ("#56b4e9", "P", (-6, -12)),
    ("#8c510a", "X", (6, -12)),
    ("#7b3294", "<", (-6, 6)),
    ("#b8a800", ">", (6, 6)),
    ("#666666", "p", (-6, -12)),
)
_HALO = [withStroke(linewidth=3, foreground="white")]
_LEAST_SPAN = 1.0  # points of natural accuracy


def tradeoff_figure(results: Results) -> Figure:
    """Figure with a horizontal bar for each 95% interval; up and left is better."""
    figure = Figure(figsize=(8.2, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    defences = list(dict.fromkeys(row.defence for row in results.rows))
    others = [defence for defence in defences if defence not in _STYLES]
    styles = {**_STYLES, **dict(zip(others, cycle(_MORE), strict=False))}
    for defence in defences:
        rows = [row for row in results.rows if row.defence == defence]
        if defence == "none":  # the controls lead to the model that was trained to the end
            rows.sort(key=lambda row: row.stop)
        _draw_sweep(axes, rows, styles[defence])
    chance = 100 * results.task["chance_attack_accuracy"]
    axes.axvline(chance, color="#999999", linestyle=":", linewidth=1)
    axes.annotate(
        "chance",
        (chance, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 4),
        textcoords="offset points",
        color="#777777",
        fontsize=8,
    )
    axes.set_xlim(-2, 102)
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    if high - low < _LEAST_SPAN:  # do not blow up differences of a few images
        middle = (low + high) / 2
        axes.set_ylim(middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2)
    axes.set_xlabel("attack accuracy, % (bar: 95% interval; further left is safer)")
    axes.set_ylabel("natural accuracy, %")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", frameon=False, ncols=5, fontsize=9)
    return figure


def _draw_sweep(axes: Axes, rows: list[Row], style: tuple[str, str, tuple[int, int]]) -> None:
    colour, marker, corner = style
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
        zorder=3,  # the halo of a label must not hide a marker
        label=rows[0].label,
    )
    for point, row in zip(zip(x, y, strict=True), rows, strict=True):
        told = ", ".join(f"{value:g}" for value in row.weights.values())
        told = told or (f"{100 * row.stop:g}%" if row.stop < 1 else "")
        if told:
            axes.annotate(
                told,
                point,
                xytext=corner,
                textcoords="offset points",
                ha="left" if corner[0] > 0 else "right",
                color=colour,
                fontsize=8,
                path_effects=_HALO,
                zorder=2.5,
            )


def save_tradeoff(results: Results, path: Path) -> Path:
    """Write the plot as a PNG, atomically, and return its path."""
    with replacing(path) as partial:
        tradeoff_figure(results).savefig(partial, format="png", dpi=160)
    return path


def tradeoff_svg(results: Results) -> bytes:
    """The plot as SVG, sharp at any zoom, text as paths so that no font is needed."""
    buffer = io.BytesIO()
    tradeoff_figure(results).savefig(buffer, format="svg")
    return buffer.getvalue()
