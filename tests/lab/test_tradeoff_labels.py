# SPDX-License-Identifier: Apache-2.0
"""The labels of the trade-off plot: none covers another one or a marker, however close the points are."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from stand_ins import a_row, some_results

from bido_ext.lab.report import Results
from bido_ext.lab.report.plot import label_of, tradeoff_figure
from bido_ext.lab.report.rows_svg import rows_svg

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "demo" / "quick-seed0.json"


def of_the_demo() -> Results:
    return Results.from_dict(json.loads(RECORDED.read_text()))


def crowded(seed: int) -> Results:
    """Twelve rows of three defences within a few points, and the undefended model stopped early."""
    rng = random.Random(seed)
    rows = [a_row("none", 0.99, 0.8)]
    for stop in (0.02, 0.06, 0.2):
        row = a_row("none", 0.9 + stop / 3, 0.7 + stop / 4)
        rows.append(replace(row, name=f"none-{stop}", config={**row.config, "stop": stop}))
    for defence in ("bido-hsic", "bido-coco", "mid"):
        for k in range(4):
            weights = {"lambda_x": 10.0**k, "lambda_y": 50.0}
            rows.append(a_row(defence, rng.uniform(0.95, 1), rng.uniform(0.68, 0.8), weights))
    return some_results(*rows)


def labels_and_markers(figure: Figure, results: Results) -> tuple[list, list]:
    figure.canvas.draw()
    (axes,) = figure.axes
    labels = [t for t in axes.texts if isinstance(t, Annotation) and t.get_text() != "chance"]
    assert sorted(t.get_text() for t in labels) == sorted(filter(None, map(label_of, results.rows)))
    boxes = [Text.get_window_extent(t) for t in labels]  # without the lines to the points
    points = [
        axes.transData.transform((100 * row.attack.attack_accuracy, 100 * row.natural_accuracy))
        for row in results.rows
    ]
    return boxes, points


@pytest.mark.parametrize("make", [of_the_demo, *(lambda s=s: crowded(s) for s in range(4))])
def test_no_label_covers_another_one_or_a_marker(make) -> None:
    results = make()
    figure = tradeoff_figure(results)
    boxes, points = labels_and_markers(figure, results)
    frame = figure.axes[0].get_window_extent()
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        for x, y in points:
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def test_the_rows_name_the_controls_and_show_chance_wherever_it_is() -> None:
    results = crowded(0)
    text = rows_svg(replace(results, task={**results.task, "chance_attack_accuracy": 0.1}), "A <b>")
    assert "(stopped at 2 %)" in text
    assert "dotted: chance, 10 %" in text
    assert text.count('class="chance"') == 1
    assert "A &lt;b&gt;" in text
