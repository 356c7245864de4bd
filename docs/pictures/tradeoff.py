# SPDX-License-Identifier: Apache-2.0
"""Draws tradeoff.svg and curves.svg from the recorded run of ``bido demo``.

Run it as ``python docs/pictures/tradeoff.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bido_ext.lab.report import Results, save_tradeoff
from bido_ext.lab.report.rows_svg import rows_svg

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "demo" / "quick-seed0.json"
PICTURE, CURVES = HERE / "tradeoff.svg", HERE / "curves.svg"
NOTE = "MNIST digits 0–4 attacked by GMI; one training seed; weights in brackets"


def draw(result: dict[str, Any]) -> str:
    """The rows of a run as SVG."""
    return rows_svg(Results.from_dict(result), NOTE)


if __name__ == "__main__":
    recorded = json.loads(RESULT.read_text())
    PICTURE.write_text(draw(recorded))
    save_tradeoff(Results.from_dict(recorded), CURVES)
