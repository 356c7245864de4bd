# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file with every picture inside and no external resource."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.report.adaptive import adaptive_text
from bido_ext.lab.report.duration import duration
from bido_ext.lab.report.headline import ACCEPTED_LOSS, headline
from bido_ext.lab.report.literature import published_text
from bido_ext.lab.report.plot import tradeoff_svg
from bido_ext.lab.report.results import Results, Row
from bido_ext.lab.report.rows_svg import rows_svg
from bido_ext.lab.report.table import attack_text, second_judge_text
from bido_ext.lab.report.tradeoff import tradeoff_of, tradeoff_text


def write_report(results: Results, path: Path) -> Path:
    """Write the report of a run.

    Args:
        results: The run; the pictures of its rows are looked up beside ``path``.
        path: HTML file to write (replaced atomically).

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If the picture of a row is missing.
    """
    template = resources.files("bido_ext.lab.report").joinpath("template.html")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=lambda value, digits=1: f"{100 * value:.{digits}f}%",
        pretty=lambda value: json.dumps(value, indent=2),
        duration=duration,
        greek=_greek,
    )
    note = f"{results.task['name']}; seed {results.seed}; weights in brackets"
    html = environment.from_string(template.read_text(encoding="utf-8")).render(
        results=results,
        headline=headline(results),
        undefended=results.undefended,
        lowest=_best(results),
        accepted_loss=ACCEPTED_LOSS,
        attack_text=lambda row: attack_text(row.attack, "±"),
        rows_picture=_data_uri(rows_svg(results, note).encode(), "image/svg+xml"),
        tradeoff=_data_uri(tradeoff_svg(results).encode(), "image/svg+xml"),
        tradeoff_text=tradeoff_text(results, tradeoff_of(results)),
        second_judge=second_judge_text(results),
        adaptive=adaptive_text(results),
        has_controls=any(row.stop < 1 for row in results.rows),
        published=published_text(results),
        pictures={
            row.name: _data_uri((path.parent / row.picture).read_bytes(), "image/png")
            for row in results.rows
        },
        commands=_commands(results),
        facts=_facts(results),
    )
    return write_text(path, html)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _greek(text: str) -> str:
    """The weights as the papers write them."""
    return text.replace("lambda_x", "λx").replace("lambda_y", "λy").replace("beta", "β")


def _best(results: Results) -> Row | None:
    defended = [row for row in results.rows if row.defence != "none"]
    return min(defended, key=lambda row: row.attack.attack_accuracy, default=None)


def _commands(results: Results) -> list[str]:
    return list(dict.fromkeys(command for row in results.rows for command in row.commands))


def _facts(results: Results) -> dict[str, Any]:
    attack = results.rows[0].attack
    smallest_step = 100 / len(attack.classes)
    return {
        "restarts": attack.restarts,
        "classes": attack.classes,
        "reconstructions": attack.frechet_reconstructions,
        "private": attack.frechet_private,
        "features": attack.frechet_features,
        "is_singular": min(attack.frechet_reconstructions, attack.frechet_private)
        <= attack.frechet_features,
        "ci_method": attack.ci_method,
        "smallest_step": f"{smallest_step:g}",
    }
