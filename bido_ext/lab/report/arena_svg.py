# SPDX-License-Identifier: Apache-2.0
"""The table of an arena as a picture: the darker a cell, the better the attack."""

from __future__ import annotations

from bido_ext.lab.report.arena import ArenaResults, ArenaRow
from bido_ext.lab.report.plain_svg import document, text

_WIDE, _HIGH, _TOP = 78, 30, 92
_CHARACTER = 7.4  # width of an average one at 14 pixels
_RULES = """\
.natural { fill: var(--natural) } .cell { fill: var(--attack) }
.empty { fill: none; stroke: var(--grid) }
.less, .more { fill: none; stroke: var(--ink); stroke-width: 2 } .more { stroke-dasharray: 3 3 }
"""


def arena_svg(results: ArenaResults, *, title: bool = True) -> str:
    """One line a model, one column an attack; a frame where a defence surely differs.

    Args:
        results: The arena.
        title: Whether to write the title above.
    """
    rows = results.rows()
    longest = max((len(row.model) for row in rows), default=0)
    left = round(max(200.0, 40 + _CHARACTER * longest)) + _WIDE
    width = left + _WIDE * len(results.attacks) + 20
    bottom = _TOP + _HIGH * len(rows)
    height = bottom + 64
    parts = [
        text(20, 30, results.title if title else "", "head"),
        text(left - 16, _TOP - 14, "natural", "natural", "end"),
    ]
    for k, attack in enumerate(results.attacks):
        parts.append(text(left + _WIDE * k + _WIDE / 2, _TOP - 14, attack, "", "middle"))
    for i, row in enumerate(rows):
        y = _TOP + _HIGH * i
        parts += [
            text(20, y + 20, row.model, "plain" if row.is_control else ""),
            text(left - 16, y + 20, f"{100 * row.natural:.1f}", "natural", "end"),
        ]
        for k, attack in enumerate(results.attacks):
            parts += _cell(row, attack, left + _WIDE * k, y)
    lines = [
        f"Percent. Darker: the attack finds more. Chance: {100 * results.chance:.0f} %. "
        f"{results.done} of {results.sweeps} sweeps.",
        "Framed: surely less than an undefended model of the same natural accuracy; dashed: more.",
    ]
    parts += [text(20, bottom + 26 + 20 * i, line, "quiet") for i, line in enumerate(lines)]
    label = f"Attack accuracy of {len(results.attacks)} attacks on {len(rows)} classifiers"
    return document(width, height, label, _RULES, parts)


def _cell(row: ArenaRow, attack: str, x: float, y: float) -> list[str]:
    box = f'x="{x + 2}" y="{y + 2}" width="{_WIDE - 4}" height="{_HIGH - 4}" rx="4"'
    if attack not in row.attacks:
        return [f'<rect class="empty" {box}/>']
    share = row.attacks[attack]
    # Never so dark that the ink above is lost.
    parts = [f'<rect class="cell" fill-opacity="{0.55 * share:.3f}" {box}/>']
    if row.sure.get(attack):
        side = "less" if row.differences[attack] < 0 else "more"
        parts.append(f'<rect class="{side}" {box}/>')
    parts.append(text(x + _WIDE / 2, y + 20, f"{100 * share:.1f}", "", "middle"))
    return parts
