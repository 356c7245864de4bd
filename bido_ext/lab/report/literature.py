# SPDX-License-Identifier: Apache-2.0
"""Published numbers of defences, from ``literature.json``, and those of one's own setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.results import Results, Row

FILE = "literature.json"


@dataclass(frozen=True)
class Published:
    """One number, or a pair, that somebody printed; all in percent.

    Attributes:
        table: Which table of docs/literature.md it stands in.
        defence: Key of ``DEFENCES``, or another name.
        weights: Of the defence, by name; empty where none were told.
        data, model, attack: As there is; "" where it was not told.
        natural_accuracy, attack_accuracy: Of several runs, each.
        source: Where it was read.
        note: What it means, or how sure that is.
        recipe: Of this package, the same setting; "" if there is none.
    """

    table: str
    defence: str
    weights: Mapping[str, float]
    data: str
    model: str
    attack: str
    natural_accuracy: tuple[float, ...]
    attack_accuracy: tuple[float, ...]
    source: str
    note: str = ""
    recipe: str = ""


def published() -> tuple[Published, ...]:
    """All of them, in the order of the document."""
    text = resources.files("bido_ext.lab.report").joinpath(FILE).read_text(encoding="utf-8")
    return tuple(_row(row) for row in json.loads(text)["rows"])


def _row(row: dict[str, Any]) -> Published:
    lists = {key: tuple(row.pop(key, ())) for key in ("natural_accuracy", "attack_accuracy")}
    return Published(**{"weights": {}, "data": "", "model": "", "attack": "", **row, **lists})


def matching(row: Row, results: Results, rows: Iterable[Published]) -> list[Published]:
    """The published numbers of the same defence and weights, data, model and attack as ``row``.

    A number without an attack accuracy is of any attack.
    """
    data = str(results.config.get("data", {}).get("private") or results.task["name"]).lower()
    model, attack = (
        str(row.config.get("arch", "")),
        str(results.config["attack"].get("name", "gmi")),
    )
    if row.stop < 1:
        return []
    return [
        one
        for one in rows
        if one.defence == row.defence
        and one.weights == row.weights
        and one.data.lower() == data
        and one.model == model
        and (not one.attack_accuracy or one.attack == attack)
    ]


def published_text(results: Results) -> str:
    """Ours beside what was published for the same setting; empty where nothing was."""
    lines = [
        (
            row.label,
            row.weights_text,
            f"{100 * row.natural_accuracy:.2f}%",
            numbers(one.natural_accuracy),
            f"{100 * row.attack.attack_accuracy:.1f}%",
            numbers(one.attack_accuracy),
            one.source,
        )
        for row in results.rows
        for one in matching(row, results, published())
    ]
    if not lines:
        return ""
    header = ("defence", "weights", "natural", "published", "attack", "published", "source")
    return grid(header, lines)


def numbers(values: Iterable[float]) -> str:
    """Percent values of one or several runs, "–" if there are none."""
    return ", ".join(f"{value:g}" for value in values) + " %" if (values := tuple(values)) else "–"
