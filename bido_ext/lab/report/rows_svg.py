# SPDX-License-Identifier: Apache-2.0
"""The rows of a run as a picture: a disc for natural accuracy, a diamond for attack accuracy."""

from __future__ import annotations

from bido_ext.lab.report.plain_svg import document, text
from bido_ext.lab.report.results import Results, Row

_SCALE, _TOP, _STEP = 450, 96, 34
_CHARACTER = 7.7  # width of an average one at 14 pixels
_RULES = """\
.grid { stroke: var(--grid) } .natural { fill: var(--natural) } .attack { fill: var(--attack) }
.bar { stroke: var(--attack); stroke-width: 2 }
.chance { stroke: var(--quiet); stroke-dasharray: 3 4 }
"""


def rows_svg(results: Results, note: str) -> str:
    """One line for each row of a run, under a common scale from 0 to 100 %.

    Args:
        results: The run.
        note: Said below the title, such as the data and the attack.
    """
    rows, chance = results.rows, results.task["chance_attack_accuracy"]
    left = round(max(250.0, 36 + _CHARACTER * max(len(_name(row)) for row in rows)))
    right, bottom = left + _SCALE, _TOP + _STEP * (len(rows) - 1)
    width, height = right + 160, bottom + 74

    def at(share: float) -> float:
        return round(left + _SCALE * share, 1)

    parts = [
        text(20, 30, "What a defence costs, and what it buys", "head"),
        text(20, 52, note, "quiet"),
        text(right + 80, _TOP - 26, "natural", "natural", "end"),
        text(right + 140, _TOP - 26, "attack", "attack", "end"),
    ]
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(_upright(at(share), bottom, "grid"))
        parts.append(text(at(share), bottom + 34, f"{100 * share:.0f} %", "quiet", "middle"))
    parts.append(_upright(at(chance), bottom, "chance"))
    for i, row in enumerate(rows):
        y, attack = _TOP + _STEP * i, row.attack
        middle = at(attack.attack_accuracy)
        parts += [
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
            text(left - 16, y + 5, _name(row), "" if row.weights else "plain", "end"),
            f'<line class="bar" x1="{at(attack.ci_low)}" x2="{at(attack.ci_high)}"'
            f' y1="{y}" y2="{y}"/>',
            f'<path class="attack" d="M{middle} {y - 7}l7 7l-7 7l-7 -7z"/>',
            f'<circle class="natural" cx="{at(row.natural_accuracy)}" cy="{y}" r="6"/>',
            text(right + 80, y + 5, f"{100 * row.natural_accuracy:.1f}", "natural", "end"),
            text(right + 140, y + 5, f"{100 * attack.attack_accuracy:.1f}", "attack", "end"),
        ]
    y = bottom + 56
    parts += [
        f'<circle class="natural" cx="{left}" cy="{y - 4}" r="5"/>',
        text(left + 12, y, "natural accuracy: further right is better", "quiet"),
        f'<path class="attack" d="M{left + 262} {y - 10}l6 6l-6 6l-6 -6z"/>',
        text(left + 274, y, "attack accuracy, 95 % interval: further left is safer", "quiet"),
        text(20, y, f"dotted: chance, {100 * chance:.0f} %", "quiet"),
    ]
    label = f"Natural and attack accuracy of {len(rows)} classifiers"
    return document(width, height, label, _RULES, parts)


def _name(row: Row) -> str:
    weights = ", ".join(f"{value:g}" for value in row.weights.values())
    if row.stop < 1:
        weights = f"stopped at {100 * row.stop:g} %"
    return f"{row.label} ({weights})" if weights else row.label


def _upright(x: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP - 16}" y2="{bottom + 16}"/>'
