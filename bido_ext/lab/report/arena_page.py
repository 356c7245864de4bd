# SPDX-License-Identifier: Apache-2.0
"""The page of an arena: the picture, the table with intervals, the reports of its sweeps."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined

from bido_ext.lab.report.arena import ArenaResults, legend
from bido_ext.lab.report.arena_svg import arena_svg


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
