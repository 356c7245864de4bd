# SPDX-License-Identifier: Apache-2.0
"""Draws faces.svg from the recorded attacks on LFW: GMI, one training seed, all five layers tapped.

Run it as ``python docs/pictures/faces.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bido_ext.lab.report.plot import tradeoff_svg

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "lfw" / "results.json"
PICTURE = HERE / "faces.svg"
LABELS = {"none": "no defence", "mid": "MID", "bido-hsic": "BiDO-HSIC", "bido-coco": "BiDO-COCO"}


def rows_of(recorded: dict[str, Any]) -> list[Any]:
    """What the plot needs of each row: defences in the order of ``LABELS``, the most accurate first."""
    epochs, taps = recorded["target"]["epochs"], recorded["target"]["taps"]
    rows = [
        SimpleNamespace(
            defence=row["defence"],
            label=LABELS[row["defence"]],
            weights=row["weights"],
            stop=round(row["epochs"] / epochs, 2),
            natural_accuracy=row["training"]["natural_accuracy"],
            attack=SimpleNamespace(**row["attacks"]["gmi"]),
        )
        for row in recorded["rows"]
        if row["seed"] == 0 and row["taps"] == taps and "gmi" in row["attacks"]
    ]
    return sorted(rows, key=lambda r: (list(LABELS).index(r.defence), -r.natural_accuracy))


def draw(recorded: dict[str, Any]) -> str:
    """The trade-off plot as SVG."""
    chance = recorded["chance"]["attack_accuracy"]
    task = {"chance_attack_accuracy": chance}
    return tradeoff_svg(SimpleNamespace(rows=rows_of(recorded), task=task))  # type: ignore[arg-type]


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(RESULT.read_text())))
