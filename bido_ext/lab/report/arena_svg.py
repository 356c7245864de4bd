# SPDX-License-Identifier: Apache-2.0
"""The table of an arena as a picture: the darker a cell, the better the attack.

Plain SVG, the same to the byte on every machine; light or dark as the reader has it.
"""

from __future__ import annotations

from html import escape

from bido_ext._drawing import STYLE
from bido_ext.lab.report.arena import ArenaResults, ArenaRow

_WIDE, _HIGH, _TOP = 78, 30, 92
_CHARACTER = 7.4  # width of an average one at 14 pixels
_RULES = """\
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink) }
.ground { fill: var(--ground) } .quiet { fill: var(--quiet); font-size: 12px }
.head { font-size: 16px; font-weight: 600 } .natural { fill: var(--natural) } .plain { font-weight: 600 }
.cell { fill: var(--attack) } .empty { fill: none; stroke: var(--grid) }
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
        f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
        _text(20, 30, results.title if title else "", "head"),
        _text(left - 16, _TOP - 14, "natural", "natural", "end"),
    ]
    for k, attack in enumerate(results.attacks):
        parts.append(_text(left + _WIDE * k + _WIDE / 2, _TOP - 14, attack, "", "middle"))
    for i, row in enumerate(rows):
        y = _TOP + _HIGH * i
        parts += [
            _text(20, y + 20, row.model, "plain" if row.is_control else ""),
            _text(left - 16, y + 20, f"{100 * row.natural:.1f}", "natural", "end"),
        ]
        for k, attack in enumerate(results.attacks):
            parts += _cell(row, attack, left + _WIDE * k, y)
    lines = [
        f"Percent. Darker: the attack finds more. Chance: {100 * results.chance:.0f} %. "
        f"{results.done} of {results.sweeps} sweeps.",
        "Framed: surely less than an undefended model of the same natural accuracy; dashed: more.",
    ]
    parts += [_text(20, bottom + 26 + 20 * i, line, "quiet") for i, line in enumerate(lines)]
    body = "\n".join(parts)
    label = f"Attack accuracy of {len(results.attacks)} attacks on {len(rows)} classifiers"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="{label}">\n<style>\n{STYLE}{_RULES}</style>\n{body}\n</svg>\n'
    )


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
    parts.append(_text(x + _WIDE / 2, y + 20, f"{100 * share:.1f}", "", "middle"))
    return parts


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
