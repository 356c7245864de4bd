# SPDX-License-Identifier: Apache-2.0
"""Draws arena_mnist.svg and writes the table of docs/arena.md from the recorded arena.

Run it as ``python docs/pictures/arena.py``. ``benchmarks/results/arena/mnist`` is the folder of
``bido arena mnist`` without its models, generators and pages: the table, and the results it is made
of (``bido arena mnist --out FOLDER --table`` makes it again).
"""

from __future__ import annotations

import re
from pathlib import Path

from bido_ext.lab.report.arena import ArenaResults, read_arena
from bido_ext.lab.report.arena_svg import arena_svg

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "arena" / "mnist" / "arena.json"
PICTURE, PAGE = HERE / "arena_mnist.svg", HERE.parent / "arena.md"
BLOCK = re.compile(r"(?<=<!-- arena:mnist -->\n).*?(?=<!-- /arena -->)", re.DOTALL)


def draw(results: ArenaResults) -> str:
    """The table as a picture."""
    return arena_svg(results)


def table(results: ArenaResults) -> str:
    """The table in Markdown: attack accuracy, and in brackets what the defence changes."""
    heads = ["model", "trainings", "natural", *results.attacks]
    lines = ["|".join(["", *heads, ""]), "|".join(["", "---", *["---:"] * (len(heads) - 1), ""])]
    for row in results.rows():
        cells = [row.model, str(row.seeds), f"{100 * row.natural:.1f}"]
        cells += [row.cell(attack) for attack in results.attacks]
        lines.append("|".join(["", *cells, ""]))
    return "\n".join(["", *lines, "", ""])


def page(text: str, results: ArenaResults) -> str:
    """The page ``text`` with the table made anew."""
    return BLOCK.sub(lambda _: table(results), text, count=1)


if __name__ == "__main__":
    recorded = read_arena(RESULT)
    PICTURE.write_text(draw(recorded))
    PAGE.write_text(page(PAGE.read_text(), recorded))
