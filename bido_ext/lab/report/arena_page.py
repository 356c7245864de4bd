# SPDX-License-Identifier: Apache-2.0
"""The files of an arena: the numbers, the picture, and the page with table and reports of its sweeps."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.report.arena import ArenaResults, legend
from bido_ext.lab.report.arena_svg import arena_svg


def write_arena(results: ArenaResults, out: Path) -> None:
    """Write ``arena.json``, then the picture and the page of it."""
    write_text(out / "arena.json", json.dumps(results.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out / "arena.svg", arena_svg(results))
    write_text(out / "arena.html", arena_html(results))


def arena_html(results: ArenaResults) -> str:
    """One HTML file without external resources; the reports of the sweeps lie beside it."""
    template = resources.files("bido_ext.lab.report").joinpath("arena.html")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    sweeps = dict.fromkeys((cell.attack, cell.seed, cell.report) for cell in results.cells)
    picture = arena_svg(results, title=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        results=results, rows=results.rows(), legend=legend(results), picture=picture, sweeps=sweeps
    )
