# SPDX-License-Identifier: Apache-2.0
"""Published numbers of defences and attacks, from ``literature.json``, and those of one's own setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field

from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.results import Results, Row
from bido_ext.lab.training.checked import Number, checked

FILE, VERSION = "literature.json", 2

#: How a number came here: printed by those who measured it (in a paper, or for a rerun of its code);
#: the name of a file of weights; told by others who had read the paper; a leaderboard.
Kind = Literal["paper", "rerun", "name", "told", "board"]
#: One value, or one for each of several runs.
Percents = Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], Field(strict=False)]
Distances = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)]


@checked
class Published:
    """One number, or several that stand together, that somebody printed; accuracies in percent.

    Attributes:
        table: Which table of docs/literature.md it stands in.
        kind: How it came here.
        defence: Key of ``DEFENCES``.
        source: The paper, by its short name; or who printed it.
        where: The table, section, cell or file of the source.
        url: Address of what was read; "" if there is none.
        weights: Of the defence, by name; empty where none were told.
        data, public: Private and public data set; "" where it was not told, as in every field that
            follows.
        model, attack, evaluator: Our names where we have it, else those of the source. The evaluator
            judged the attack.
        identities: How many were attacked; 0 where it was not told.
        natural_accuracy, attack_accuracy, attack_accuracy_top5: Of several runs, each.
        spread: What stands behind ± at the attack accuracy. Papers mean different things by it.
        knn_distance, fid: In units of the source.
        note: What it means, or how sure that is.
        recipe: Of this package, the same setting; "" if there is none.
    """

    table: str
    kind: Kind
    defence: str
    source: str
    where: str = ""
    url: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    public: str = ""
    model: str = ""
    attack: str = ""
    evaluator: str = ""
    identities: Number = 0
    natural_accuracy: Percents = ()
    attack_accuracy: Percents = ()
    attack_accuracy_top5: Percents = ()
    spread: Percents = ()
    knn_distance: Distances = ()
    fid: Distances = ()
    note: str = ""
    recipe: str = ""

    def __post_init__(self) -> None:
        runs = len(self.attack_accuracy)
        for name in ("attack_accuracy_top5", "spread", "knn_distance", "fid"):
            values = getattr(self, name)
            if runs and values and len(values) != runs:
                raise ValueError(f"{name} must have a value for each of {runs} runs, got {values}")
        if self.spread and not runs:
            raise ValueError("spread must belong to an attack_accuracy, there is none")
        if runs and not self.attack:
            raise ValueError("attack must be told where there is an attack_accuracy")
        if self.kind in ("paper", "rerun", "name") and not (self.where and self.url):
            raise ValueError(f"where and url must be told in a row of kind {self.kind!r}")


def published() -> tuple[Published, ...]:
    """All of them, in the order of the document.

    Raises:
        ValueError: If the file is of another version or a row is not as ``Published`` says.
    """
    text = resources.files("bido_ext.lab.report").joinpath(FILE).read_text(encoding="utf-8")
    return rows_of(json.loads(text))


def rows_of(content: Mapping[str, Any]) -> tuple[Published, ...]:
    """The rows of a file like ``literature.json``; raises ValueError as ``published`` does."""
    if content.get("version") != VERSION:
        raise ValueError(f"version of {FILE} must be {VERSION}, got {content.get('version')!r}")
    return tuple(_row(number, row) for number, row in enumerate(content["rows"], 1))


def _row(number: int, row: dict[str, Any]) -> Published:
    try:
        return Published(**row)
    except ValueError as error:
        raise ValueError(f"row {number} of {FILE}: {error}") from None


#: What two numbers must share to be compared.
_SETTING = ("source", "where", "data", "public", "model", "attack", "evaluator", "identities")


def comparable(one: Published, other: Published) -> bool:
    """Whether two attack accuracies differ by the defence alone: the same table of one source.

    Tables of two sources are never comparable. Splits, steps, selection and judges differ where the
    names of data, classifier and attack agree.
    """
    return bool(one.attack_accuracy and other.attack_accuracy) and all(
        getattr(one, name) == getattr(other, name) for name in _SETTING
    )


def pairs(rows: Iterable[Published]) -> list[tuple[Published, Published]]:
    """Each defended row with the undefended one it may be compared with, where that was printed."""
    rows = list(rows)
    return [
        (base, one)
        for one in rows
        if one.defence != "none"
        for base in rows
        if base.defence == "none" and comparable(base, one)
    ]


def matching(row: Row, results: Results, rows: Iterable[Published]) -> list[Published]:
    """The published numbers of the same defence and weights, data, model and attack as ``row``.

    A number without an attack accuracy is of any attack; one without a public set, of any.
    """
    data = results.config.get("data", {})
    private = str(data.get("private") or results.task["name"]).lower()
    public = str(data.get("public") or private).lower()
    model, attack = (
        str(row.config.get("arch", "")),
        str(results.config["attack"].get("name", "gmi")),
    )
    if row.stop < 1:
        return []
    return [
        one
        for one in rows
        if (one.natural_accuracy or one.attack_accuracy)
        and one.defence == row.defence
        and one.weights == row.weights
        and one.data.lower() == private
        and one.public.lower() in ("", public)
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
            numbers(one.attack_accuracy, one.spread),
            one.evaluator or "–",
            ", ".join(filter(None, (one.source, one.where))),
        )
        for row in results.rows
        for one in matching(row, results, published())
    ]
    if not lines:
        return ""
    header = (
        "defence",
        "weights",
        "natural",
        "published",
        "attack",
        "published",
        "judge",
        "source",
    )
    return grid(header, lines)


def numbers(values: Iterable[float], spread: Iterable[float] = (), unit: str = " %") -> str:
    """Values of one or several runs, each with its spread if there is one; "–" if there are none."""
    values, spread = tuple(values), tuple(spread)
    told = (
        (f"{v:g} ± {s:g}" for v, s in zip(values, spread, strict=True))
        if spread
        else (f"{v:g}" for v in values)
    )
    return ", ".join(told) + unit if values else "–"
