# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/literature.md: ``python -m bido_ext.lab.report.literature_page FILE``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bido_ext.lab.report.literature import Published, numbers, pairs, published

#: How a number came here, in the words of the page.
READ = {
    "paper": "paper",
    "rerun": "rerun",
    "name": "file name",
    "told": "second hand",
    "board": "leaderboard",
}


def markdown_table(name: str) -> str:
    """The lines of one table of docs/literature.md; ``pairs`` is made of all of them."""
    if name == "pairs":
        return _pairs_table()
    rows = [row for row in published() if row.table == name]
    return _markdown(
        {
            "defence": [row.defence for row in rows],
            "weights": [_weights(row) for row in rows],
            "data": [row.data or "–" for row in rows],
            "public": [row.public or "–" for row in rows],
            "model": [row.model or "–" for row in rows],
            "attack": [row.attack or "–" for row in rows],
            "judge": [row.evaluator or "–" for row in rows],
            "people": [str(row.identities or "–") for row in rows],
            "natural": [numbers(row.natural_accuracy) for row in rows],
            "attacked": [numbers(row.attack_accuracy, row.spread) for row in rows],
            "top-5": [numbers(row.attack_accuracy_top5) for row in rows],
            "KNN": [numbers(row.knn_distance, unit="") for row in rows],
            "FID": [numbers(row.fid, unit="") for row in rows],
            "note": [row.note or "–" for row in rows],
            "read in": [READ[row.kind] for row in rows],
            "source": [_source(row) for row in rows],
            "recipe": [f"`{row.recipe}`" if row.recipe else "–" for row in rows],
        }
    )


def _pairs_table() -> str:
    found = pairs(published())
    return _markdown(
        {
            "defence": [one.defence for _, one in found],
            "data": [one.data or "–" for _, one in found],
            "public": [one.public or "–" for _, one in found],
            "model": [one.model or "–" for _, one in found],
            "attack": [one.attack for _, one in found],
            "undefended": [numbers(base.attack_accuracy) for base, _ in found],
            "defended": [numbers(one.attack_accuracy) for _, one in found],
            "points": [
                f"{one.attack_accuracy[0] - base.attack_accuracy[0]:+.1f}" for base, one in found
            ],
            "read in": [READ[one.kind] for _, one in found],
            "source": [_source(one) for _, one in found],
        }
    )


def _markdown(columns: dict[str, list[str]]) -> str:
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


def _source(row: Published) -> str:
    """The source as a link, and where in it."""
    source = f"[{row.source}]({row.url})" if row.url else row.source
    return ", ".join(filter(None, (source, row.where)))


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(document(page.read_text(encoding="utf-8")), encoding="utf-8")
