# SPDX-License-Identifier: Apache-2.0
"""Run an arena: for each seed and attack a sweep over all models, which are trained once.

Folder of an arena: ``arena.json``, ``arena.svg``, ``arena.html`` with the one table, made anew after
every sweep; ``seed-0/models/`` with the classifiers and ``seed-0/priors/`` with the generators, which
are trained once for all attacks that use them; ``seed-0/gmi/`` with the sweep of one attack and its
own report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes.attack_step import attack_settings
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.experiments.sweep import Place, SweepRow, run_sweep, sweep_rows
from bido_ext.lab.report import Results, read_results
from bido_ext.lab.report.arena import ArenaResults
from bido_ext.lab.report.arena_page import write_arena

from .load import recipe_of, target_of
from .schema import Arena, ArenaAttack

MODELS, PRIORS = "models", "priors"


@dataclass(frozen=True)
class ArenaPlace:
    """Where an arena is, and with which data.

    Attributes:
        out: Folder of the arena.
        data_root, smoke, from_scratch, second_judge: As of ``run_recipe``.
    """

    out: Path
    data_root: Path | None = None
    smoke: bool = False
    from_scratch: bool = False
    second_judge: bool = False


def rows_of(
    arena: Arena, training: Mapping[str, Any], attack: ArenaAttack, seed: int, *, smoke: bool
) -> tuple[SweepRow, ...]:
    """The models that one attack meets with one seed, and the undefended model stopped early."""
    recipe = recipe_of(arena, training, attack, seed, smoke=smoke)
    models = [model for model in arena.models if seed in arena.seeds_of(model)]
    points = [(model.defence, model.weights) for model in models]
    own = {model.name: target_of(arena, recipe, model, smoke=smoke) for model in models}
    return tuple(
        replace(row, recipe=replace(row.recipe, target=own.get(row.name, row.recipe.target)))
        for row in sweep_rows(recipe, points, arena.controls)
    )


@dataclass(frozen=True)
class ArenaSweep:
    """One attack with one seed on all its models: a column of the table, or a part of one."""

    seed: int
    attack: str
    rows: tuple[SweepRow, ...]

    @property
    def folder(self) -> str:
        """Within the arena's."""
        return f"seed-{self.seed}/{self.attack}"

    def made(self, results: Results, *, smoke: bool = False) -> bool:
        """Whether these are its results, and not those of an arena that has changed since."""
        first = self.rows[0].recipe
        wanted: dict[str, Any] = {
            "attack": {"name": self.attack, **asdict(attack_settings(first, smoke=smoke).search)},
            "models": [["evaluator", asdict(first.evaluator)]]
            + [[row.name, asdict(row.recipe.target)] for row in self.rows],
        }
        found: dict[str, Any] = {
            "attack": results.config["attack"],
            "models": [["evaluator", dict(results.config["evaluator"])]]
            + [[row.name, dict(row.config)] for row in results.rows],
        }
        for _, training in [*wanted["models"], *found["models"]]:
            training.pop("pretrained", None)  # a run looks the file up in the folder of the data
        return bool(json.loads(json.dumps(wanted)) == found)


def sweeps_of(
    arena: Arena, training: Mapping[str, Any], *, smoke: bool = False
) -> tuple[ArenaSweep, ...]:
    """All sweeps of an arena, in the order in which they are run."""
    return tuple(
        ArenaSweep(seed, attack.name, rows_of(arena, training, attack, seed, smoke=smoke))
        for seed in arena.all_seeds
        for attack in arena.attacks
    )


def run_one(
    sweep: ArenaSweep,
    place: ArenaPlace,
    *,
    command: str = "",
    jobs: int = 1,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> Results:
    """Run one sweep, and write its own report; several processes may each run another one.

    Args:
        sweep: From ``sweeps_of``.
        place, command, jobs, options, narrator: As of ``run_arena``.

    Raises:
        ValueError, JobsError: As ``run_arena``.
    """
    seed = place.out / f"seed-{sweep.seed}"
    there = Place(
        place.out / sweep.folder, place.data_root, place.smoke, place.from_scratch,
        place.second_judge, seed / MODELS, seed / PRIORS,
    )  # fmt: skip
    return run_sweep(
        sweep.rows, there, command=command, jobs=jobs, options=options, narrator=narrator
    )


def write_table(
    arena: Arena, sweeps: Sequence[ArenaSweep], place: ArenaPlace, *, command: str = ""
) -> ArenaResults:
    """Write the table of the sweeps that are finished; nothing is run.

    Args:
        arena: From ``load_arena``.
        sweeps: From ``sweeps_of``; one whose results are of other settings counts as not finished.
        place: Of the arena.
        command: The command line, for the report.

    Returns:
        What was written to ``arena.json``.

    Raises:
        ValueError: No sweep is finished, or the results of one cannot be read.
    """
    results = ArenaResults(
        arena.name, arena.title, command, tuple(attack.name for attack in arena.attacks),
        len(sweeps), arena.notes, place.smoke,
    )  # fmt: skip
    for sweep in sweeps:
        path = place.out / sweep.folder / "results.json"
        if path.is_file() and sweep.made(swept := read_results(path), smoke=place.smoke):
            results = results.with_sweep(swept, sweep.attack, f"{sweep.folder}/report.html")
    if not results.cells:
        raise ValueError(f"{place.out} has no finished sweep of {arena.name} with these settings")
    write_arena(results, place.out)
    return results


def run_arena(
    arena: Arena,
    training: Mapping[str, Any],
    place: ArenaPlace,
    *,
    command: str = "",
    jobs: int = 1,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> ArenaResults:
    """Attack every model of the arena with every attack; finished steps are reused.

    Args:
        arena, training: From ``load_arena``.
        place: Folder and data.
        command: The command line, for the report.
        jobs: Models at a time, above 1 each in a process of its own with one thread.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``arena.json``.

    Raises:
        ValueError: ``jobs`` below 1, options with ``fresh``, or what ``run_recipe`` raises.
        JobsError: A row of several jobs failed or was killed; the others are finished.
    """
    if options is not None and options.fresh:
        raise ValueError("fresh would train each model again for every attack: take another folder")
    sweeps = sweeps_of(arena, training, smoke=place.smoke)
    narrator = narrator or Narrator(stages=5 * sum(len(sweep.rows) for sweep in sweeps))
    with locked(place.out):
        for sweep in sweeps:
            narrator.say(f"\n==== {sweep.attack}, seed {sweep.seed}")
            run_one(sweep, place, command=command, jobs=jobs, options=options, narrator=narrator)
            results = write_table(arena, sweeps, place, command=command)
    return results
