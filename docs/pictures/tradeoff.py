# SPDX-License-Identifier: Apache-2.0
"""Draws tradeoff.svg from the recorded run of ``bido demo``: ``python docs/pictures/tradeoff.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "demo" / "quick-seed0.json"
PICTURE = HERE / "tradeoff.svg"

LEFT, RIGHT, TOP, STEP, WIDTH = 250, 700, 96, 34, 860
#: The picture brings its own ground, so it is readable on a light and on a dark page.
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
  .ground { fill: #ffffff } .grid { stroke: #dfe3e8 } text { fill: #1f2933 }
  .quiet { fill: #5b6773; font-size: 12px } .head { font-size: 16px; font-weight: 600 }
  .natural { fill: #0b5cad } .attack { fill: #b3401f } .bar { stroke: #b3401f; stroke-width: 2 }
  .chance { stroke: #5b6773; stroke-dasharray: 3 4 } .plain { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22 } .grid { stroke: #30363d } text { fill: #e6edf3 }
    .quiet { fill: #9aa5b1 } .natural { fill: #6cb2f5 } .attack { fill: #ff9470 }
    .bar { stroke: #ff9470 } .chance { stroke: #9aa5b1 }
  }
"""


def at(share: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * share, 1)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def name_of(row: dict[str, Any]) -> str:
    weights = ", ".join(f"{value:g}" for value in row["weights"].values())
    return f"{row['label']} ({weights})" if weights else row["label"]


def line_of(row: dict[str, Any], y: int) -> list[str]:
    """One defence: natural accuracy as a disc, attack accuracy as a diamond with its interval."""
    natural, attack = row["natural_accuracy"], row["attack"]
    middle = at(attack["attack_accuracy"])
    return [
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>',
        text(LEFT - 16, y + 5, name_of(row), "" if row["weights"] else "plain", "end"),
        f'<line class="bar" x1="{at(attack["ci_low"])}" x2="{at(attack["ci_high"])}"'
        f' y1="{y}" y2="{y}"/>',
        f'<path class="attack" d="M{middle} {y - 7}l7 7l-7 7l-7 -7z"/>',
        f'<circle class="natural" cx="{at(natural)}" cy="{y}" r="6"/>',
        text(RIGHT + 80, y + 5, f"{100 * natural:.1f}", "natural", "end"),
        text(RIGHT + 140, y + 5, f"{100 * attack['attack_accuracy']:.1f}", "attack", "end"),
    ]


def draw(result: dict[str, Any]) -> str:
    rows, chance = result["rows"], result["task"]["chance_attack_accuracy"]
    bottom = TOP + STEP * (len(rows) - 1)
    height = bottom + 74
    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>',
        text(20, 30, "What a defence costs, and what it buys", "head"),
        text(
            20,
            52,
            "MNIST digits 0–4 attacked by GMI; one training seed; weights in brackets",
            "quiet",
        ),
        text(RIGHT + 80, TOP - 26, "natural", "natural", "end"),
        text(RIGHT + 140, TOP - 26, "attack", "attack", "end"),
    ]
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = at(share)
        kind = "chance" if share == chance else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP - 16}" y2="{bottom + 16}"/>')
        parts.append(text(x, bottom + 34, f"{100 * share:.0f} %", "quiet", "middle"))
    for i, row in enumerate(rows):
        parts += line_of(row, TOP + STEP * i)
    y = bottom + 56
    parts += [
        f'<circle class="natural" cx="{LEFT}" cy="{y - 4}" r="5"/>',
        text(LEFT + 12, y, "natural accuracy: further right is better", "quiet"),
        f'<path class="attack" d="M{LEFT + 262} {y - 10}l6 6l-6 6l-6 -6z"/>',
        text(LEFT + 274, y, "attack accuracy, 95 % interval: further left is safer", "quiet"),
        text(20, y, f"dotted: chance, {100 * chance:.0f} %", "quiet"),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'role="img" aria-label="Natural and attack accuracy of {len(rows)} classifiers">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(RESULT.read_text())))
