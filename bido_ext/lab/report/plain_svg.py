# SPDX-License-Identifier: Apache-2.0
"""SVG written by hand: the same to the byte on every machine, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bido_ext._drawing import STYLE

FONT = '14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
#: What every picture has: text, quiet text, headings, the ground.
RULES = f"""\
text {{ font: {FONT}; fill: var(--ink) }}
.ground {{ fill: var(--ground) }} .quiet {{ fill: var(--quiet); font-size: 12px }}
.head {{ font-size: 16px; font-weight: 600 }} .plain {{ font-weight: 600 }}
"""


def document(width: float, height: float, label: str, rules: str, parts: Sequence[str]) -> str:
    """The file: a ground, and the parts on it.

    Args:
        width, height: in pixels.
        label: what a screen reader says.
        rules: CSS beside ``RULES``.
        parts: elements.
    """
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="{escape(label)}">\n<style>\n{STYLE}{RULES}{rules}</style>\n'
        f'<rect class="ground" width="{width}" height="{height}" rx="8"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a place; ``kind`` is a class of the rules."""
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
