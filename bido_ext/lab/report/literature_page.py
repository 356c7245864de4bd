# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/literature.md: ``python -m bido_ext.lab.report.literature_page FILE``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bido_ext.lab.report.literature import Published, numbers, published


def markdown_table(name: str) -> str:
    """The lines of one table of docs/literature.md."""
    rows = [row for row in published() if row.table == name]
    columns: dict[str, list[str]] = {
        "defence": [row.defence for row in rows],
        "weights": [_weights(row) for row in rows],
        "data": [row.data or "–" for row in rows],
        "model": [row.model or "–" for row in rows],
        "attack": [row.attack or "–" for row in rows],
        "natural": [numbers(row.natural_accuracy) for row in rows],
        "attacked": [numbers(row.attack_accuracy) for row in rows],
        "told": [row.note or "–" for row in rows],
        "source": [row.source for row in rows],
        "recipe": [f"`{row.recipe}`" if row.recipe else "–" for row in rows],
    }
    # A column in which nothing stands is left out.
    kept = {key: cells for key, cells in columns.items() if any(cell != "–" for cell in cells)}
    lines = [list(kept), ["---"] * len(kept), *zip(*kept.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(text: str) -> str:
    """docs/literature.md with its tables made anew, each between two comments with its name."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n\n{markdown_table(match[1])}\n\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def _weights(row: Published) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.weights.items()) or "–"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(document(page.read_text(encoding="utf-8")), encoding="utf-8")
