# SPDX-License-Identifier: Apache-2.0
"""benchmarks.weight_trials: the table of docs/weights.md is that of the recorded trials."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.weight_trials import RESULTS, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "weights.md"


def test_the_page_shows_the_recorded_trials() -> None:
    told = PAGE.read_text().partition("<!-- weights:trials -->\n")[2]
    assert told.partition("\n<!-- /weights:trials -->")[0] == table(json.loads(RESULTS.read_text()))


def test_a_middle_rung_costs_less_than_five_points() -> None:
    for of in json.loads(RESULTS.read_text())["settings"].values():
        plain = of["trials"]["none plain"]["natural_accuracy"]
        middles = [trial for name, trial in of["trials"].items() if name.endswith("middle")]
        assert len(middles) == 4
        assert all(trial["natural_accuracy"] > plain - 0.05 for trial in middles)
