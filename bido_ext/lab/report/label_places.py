# SPDX-License-Identifier: Apache-2.0
"""Where the labels of points go, so that none covers another one, a marker or a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_DISTANCES = (
    9,
    16,
    24,
    34,
    46,
    60,
    76,
    94,
)  # points from the marker to the nearest edge of the label
_ANGLES = 16
_NEAR = 10  # beyond, a thin line leads from the label to its point
_MARKER = 7  # half of a side, points
_PAD = 1.5


@dataclass(frozen=True)
class PointLabel:
    """Text beside a point of the plot, both in data coordinates."""

    text: str
    point: tuple[float, float]
    colour: str


def place_labels(
    axes: Axes,
    labels: Sequence[PointLabel],
    points: Sequence[tuple[float, float]],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    fontsize: float = 8,
) -> list[Annotation]:
    """Writes the labels, each at the cheapest of many places around its point.

    Args:
        axes: Drawn to the end but for the labels; its limits must not change afterwards.
        labels: What to write.
        points: All markers, in data coordinates; no label covers one if there is another place.
        lines: Their ends, in data coordinates; crossed if nothing better is there.
        fontsize: Of the labels, in points.
    """
    figure = axes.figure
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()  # limits and layout are known from here on
    renderer = figure.canvas.get_renderer()  # type: ignore[no-untyped-call]
    unit = figure.dpi / 72  # type: ignore[union-attr]
    frame = axes.get_window_extent(renderer)
    to_pixels = axes.transData.transform
    markers = [_around(to_pixels(point), _MARKER * unit) for point in points]
    along = np.concatenate([_along(to_pixels(line), unit) for line in lines] or [np.empty((0, 2))])
    places: list[list[tuple[float, Bbox, tuple[float, float]]]] = []
    for label in labels:
        probe = axes.text(0, 0, label.text, fontsize=fontsize)
        size = probe.get_window_extent(renderer)
        probe.remove()
        centre = to_pixels(label.point)
        places.append(_places(centre, size.width, size.height, unit, frame, markers, along))
    chosen = _choose(places)
    written = []
    for label, (_, box, where) in zip(labels, chosen, strict=True):
        distance = math.hypot(*_gap(box, to_pixels(label.point))) / unit
        note = axes.annotate(
            label.text, label.point, where, textcoords="offset points", ha="center", va="center",
            color=label.colour, fontsize=fontsize, zorder=4,
            arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6,
                        "shrinkA": 1, "shrinkB": _MARKER - 2} if distance > _NEAR else None,
        )  # fmt: skip
        note.set_in_layout(False)  # or the frame would move, and the places with it
        written.append(note)
    return written


def _places(
    centre: np.ndarray, width: float, height: float, unit: float, frame: Bbox,
    markers: Sequence[Bbox], along: np.ndarray,
) -> list[tuple[float, Bbox, tuple[float, float]]]:  # fmt: skip
    """Cost without the other labels, box in pixels and offset in points, of each place in the frame."""
    found = []
    for distance in _DISTANCES:
        for k in range(_ANGLES):
            angle = 2 * math.pi * (k + 0.5) / _ANGLES
            dx = math.cos(angle) * (distance * unit + width / 2)
            dy = math.sin(angle) * (distance * unit + height / 2)
            middle = centre + np.array([dx, dy])
            box = Bbox.from_bounds(
                middle[0] - width / 2, middle[1] - height / 2, width, height
            ).padded(_PAD * unit)
            if not (frame.x0 <= box.x0 and box.x1 <= frame.x1):
                continue
            if not (frame.y0 <= box.y0 and box.y1 <= frame.y1):
                continue
            covered = sum(_overlap(box, marker) for marker in markers) / unit**2
            crossed = int(_inside(box, along).sum())
            found.append((distance + 20 * covered + 4 * crossed, box, (dx / unit, dy / unit)))
    return found or [(0.0, Bbox.from_bounds(centre[0], centre[1], 0, 0), (0.0, 0.0))]


def _choose(
    places: Sequence[Sequence[tuple[float, Bbox, tuple[float, float]]]],
) -> list[tuple[float, Bbox, tuple[float, float]]]:
    """A place for each label, improved one after the other while the sum of costs falls."""
    chosen = [min(own, key=lambda place: place[0]) for own in places]
    for _ in range(8):
        before = list(chosen)
        for i, own in enumerate(places):
            others = [box for j, (_, box, _) in enumerate(chosen) if j != i]
            chosen[i] = min(own, key=lambda place: place[0] + _among(place[1], others))
        if chosen == before:
            break
    return chosen


def _among(box: Bbox, others: Sequence[Bbox]) -> float:
    return 1000.0 * sum(_overlap(box, other) > 0 for other in others)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _around(point: np.ndarray, half: float) -> Bbox:
    return Bbox.from_bounds(point[0] - half, point[1] - half, 2 * half, 2 * half)


def _along(line: np.ndarray, unit: float) -> np.ndarray:
    """Points on a line, given by its two ends, three points of print apart."""
    start, end = line
    steps = max(2, int(np.hypot(*(end - start)) / (3 * unit)))
    return start + np.linspace(0, 1, steps)[:, None] * (end - start)  # type: ignore[no-any-return]


def _inside(box: Bbox, points: np.ndarray) -> np.ndarray:
    x, y = points.T
    return (box.x0 < x) & (x < box.x1) & (box.y0 < y) & (y < box.y1)


def _gap(box: Bbox, point: np.ndarray) -> tuple[float, float]:
    x, y = point
    return max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1)
