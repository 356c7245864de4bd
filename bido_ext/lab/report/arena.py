# SPDX-License-Identifier: Apache-2.0
"""``arena.json``, format ``bido_ext.arena`` version 1: every model under every attack, and its table.

name, title, command, notes, smoke
                    of the arena
attacks             the columns, in order
sweeps              how many sweeps (attack and seed) it has; those that are done have cells
chance              attack accuracy of a guess
created, machine, versions
                    of the last sweep
cells               one for each model, attack and seed:
    model, defence, label, weights, stop
                    of the row; stop < 1 is a control, undefended and stopped early
    attack, seed    of the sweep
    natural_accuracy, attack_accuracy, ci_low, ci_high
                    of the model and of the attack on it, fractions in [0, 1]
    control, difference, difference_low, difference_high
                    attack accuracy of an undefended model of the same natural accuracy, and the
                    model's minus that with its 95 % interval over identities; null where the
                    controls do not reach
    seconds         {training, attack}
    report          of the sweep, relative to this file
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.results import Results
from bido_ext.lab.report.tradeoff import tradeoff_of

FORMAT, VERSION = "bido_ext.arena", 1


@dataclass(frozen=True)
class ArenaCell:
    """One model under one attack, with one seed; the fields are documented in the module."""

    model: str
    defence: str
    label: str
    weights: dict[str, float]
    stop: float
    attack: str
    seed: int
    natural_accuracy: float
    attack_accuracy: float
    ci_low: float
    ci_high: float
    control: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    seconds: dict[str, float]
    report: str


@dataclass(frozen=True)
class ArenaRow:
    """One model over its seeds: what a line of the table says.

    Attributes:
        model: Label and weights, for people.
        seeds: How many trainings.
        natural: Mean natural accuracy.
        attacks: Attack -> mean attack accuracy; only those that were run.
        differences: Attack -> mean difference to the undefended model of the same natural accuracy.
        sure: Attack -> whether the interval of every seed lies on one side of 0.
        is_control: Whether it is undefended.
        is_stopped: Whether its training was stopped early.
    """

    model: str
    seeds: int
    natural: float
    attacks: dict[str, float]
    differences: dict[str, float]
    sure: dict[str, bool]
    is_control: bool
    is_stopped: bool

    def cell(self, attack: str) -> str:
        """Attack accuracy, difference and star as a table shows them; "" for one not run."""
        if attack not in self.attacks:
            return ""
        told = f"{100 * self.attacks[attack]:.1f}"
        if attack in self.differences:
            star = "*" if self.sure[attack] else ""
            told += f" ({100 * self.differences[attack]:+.1f}{star})"
        return told


@dataclass(frozen=True)
class ArenaResults:
    """An arena so far; the fields are documented in the module."""

    name: str
    title: str
    command: str
    attacks: tuple[str, ...]
    sweeps: int
    notes: tuple[str, ...] = ()
    smoke: bool = False
    chance: float = 0.0
    created: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cells: tuple[ArenaCell, ...] = ()

    def with_sweep(self, swept: Results, attack: str, report: str) -> ArenaResults:
        """With the rows of one more sweep."""
        equal = {point.name: point for point in tradeoff_of(swept).at_equal_accuracy}
        cells = []
        for row in swept.rows:
            point = equal.get(row.name)
            cells.append(
                ArenaCell(
                    row.name, row.defence, row.label, row.weights, row.stop, attack, swept.seed,
                    row.natural_accuracy, row.attack.attack_accuracy, row.attack.ci_low,
                    row.attack.ci_high,
                    *((None,) * 4 if point is None else
                      (point.control, point.difference, point.ci_low, point.ci_high)),
                    row.seconds, report,
                )
            )  # fmt: skip
        return replace(
            self, chance=swept.task["chance_attack_accuracy"], created=swept.created,
            machine=swept.machine, versions=swept.versions, cells=(*self.cells, *cells),
        )  # fmt: skip

    @property
    def done(self) -> int:
        """Sweeps that are finished."""
        return len({(cell.attack, cell.seed) for cell in self.cells})

    def rows(self) -> list[ArenaRow]:
        """The lines of the table, in the order of the arena: models, then controls."""
        names = dict.fromkeys(cell.model for cell in self.cells)
        rows = [self._row([cell for cell in self.cells if cell.model == name]) for name in names]
        return sorted(rows, key=lambda row: row.is_stopped)

    def _row(self, cells: Sequence[ArenaCell]) -> ArenaRow:
        first = cells[0]
        told = ", ".join(f"{value:g}" for value in first.weights.values())
        if first.stop < 1:
            told = f"stopped at {100 * first.stop:g} %"
        by_attack = {
            attack: [cell for cell in cells if cell.attack == attack] for attack in self.attacks
        }
        by_attack = {attack: own for attack, own in by_attack.items() if own}
        known = {
            attack: [cell for cell in own if cell.difference is not None]
            for attack, own in by_attack.items()
        }
        natural = {cell.seed: cell.natural_accuracy for cell in cells}
        return ArenaRow(
            model=f"{first.label} ({told})" if told else first.label,
            seeds=len(natural),
            natural=fmean(natural.values()),
            attacks={
                attack: fmean(c.attack_accuracy for c in own) for attack, own in by_attack.items()
            },
            differences={
                attack: fmean(c.difference or 0.0 for c in own)
                for attack, own in known.items()
                if own
            },
            sure={attack: bool(own) and _on_one_side(own) for attack, own in known.items()},
            is_control=first.defence == "none",
            is_stopped=first.stop < 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def _on_one_side(cells: Sequence[ArenaCell]) -> bool:
    below = all(c.difference_high is not None and c.difference_high < 0 for c in cells)
    above = all(c.difference_low is not None and c.difference_low > 0 for c in cells)
    return below or above


def read_arena(path: Path) -> ArenaResults:
    """Read ``arena.json``.

    Raises:
        ValueError: The file is no such document, of a newer version, or lacks a field.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise ValueError(f'{path} must have "format": "{FORMAT}" and "version": {VERSION}')
        fields = {key: document[key] for key in ArenaResults.__dataclass_fields__}
        lists = {key: tuple(fields[key]) for key in ("attacks", "notes")}
        cells = tuple(ArenaCell(**cell) for cell in fields["cells"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no document of an arena: {error}") from None
    return ArenaResults(**{**fields, **lists, "cells": cells})


def arena_text(results: ArenaResults) -> str:
    """The table: natural accuracy, then for each attack its accuracy and the difference to an
    undefended model of the same natural accuracy, with a star where that is sure."""
    lines = [
        (
            row.model, str(row.seeds), f"{100 * row.natural:.2f}",
            *(row.cell(attack) for attack in results.attacks),
        )
        for row in results.rows()
    ]  # fmt: skip
    table = grid(("model", "seeds", "natural", *results.attacks), lines)
    return f"{table}\n{legend(results)}"


def legend(results: ArenaResults) -> str:
    """What the numbers of the table are."""
    told = (
        "Percent, means over seeds. In brackets: attack accuracy minus that of an undefended model "
        "of the same natural accuracy (below 0 the defence protects); * where the 95 % interval "
        "over identities lies on one side of 0 for every seed. "
        f"Chance: {100 * results.chance:.0f} %."
    )
    if results.done < results.sweeps:
        told += f" {results.done} of {results.sweeps} sweeps are done."
    if results.smoke:
        told += " Smoke run: the numbers mean nothing."
    return told
