# SPDX-License-Identifier: Apache-2.0
"""One recipe under several weights of its defence: natural accuracy against attack accuracy.

Folder of a sweep: ``evaluator/``, ``prior/`` (if the attack's generator does not depend on the
target), ``points/<name>/`` with each model and its attack, ``results.json``, ``tradeoff.png``,
``report.html``.  Every step is a resumable stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bido_ext.lab.defences import label_of, resolve_weights
from bido_ext.lab.experiments.jobs import Piece, share
from bido_ext.lab.experiments.lock import FOR_OTHERS, locked
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes import Recipe, RecipeResult
from bido_ext.lab.experiments.recipes.run import run_recipe
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.report import (
    EvaluatorResult,
    Results,
    Row,
    save_tradeoff,
    write_report,
    write_results,
)

Point = tuple[str, Mapping[str, float]]  # defence and weights
# Shares of its training after which the undefended model is also stopped and attacked: what a
# defence is compared with at equal natural accuracy.
CONTROLS = (0.02, 0.06, 0.2)
LOG = "progress.txt"  # what a row of several jobs tells


@dataclass(frozen=True)
class SweepRow:
    """One row: a model, the attack on it, the judgement.

    Attributes:
        name: of its folder.
        recipe: of the sweep, with this row's defence.
    """

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Place:
    """Where a sweep is, and with which data; the same for each of its rows.

    Attributes:
        out: Folder of the sweep.
        data_root, smoke, from_scratch, second_judge: As of ``run_recipe``.
        models: Folder of the classifiers, which other attacks meet too; None: they lie in ``out``.
        priors: Folder of the generators that other attacks use too; None: they lie in ``out``.
    """

    out: Path
    data_root: Path | None = None
    smoke: bool = False
    from_scratch: bool = False
    second_judge: bool = False
    models: Path | None = None
    priors: Path | None = None


def sweep_rows(
    recipe: Recipe, points: Sequence[Point], controls: Sequence[float] = CONTROLS
) -> tuple[SweepRow, ...]:
    """The rows of a sweep, in their order: the points, then the undefended model stopped early.

    Args:
        recipe: From ``load_recipe``.
        points: (defence, weights) of each row; weights not given are the defence's defaults.
        controls: Shares in (0, 1) of the undefended training, each a row of its own.

    Raises:
        ValueError: No points, one that comes twice, or a control outside (0, 1).
    """
    full = [(defence, resolve_weights(defence, weights)) for defence, weights in points]
    names = ["-".join([defence, *(f"{v:g}" for v in w.values())]) for defence, w in full]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"points must be given, each once, got {', '.join(names) or 'none'}")
    if any(not 0 < share < 1 for share in controls) or len(set(controls)) < len(controls):
        raise ValueError(f"controls must be shares between 0 and 1, each once, got {controls}")
    stops = [1.0] * len(full) + list(controls)
    full += [("none", {}) for _ in controls]
    names += [f"none-stopped-{share:g}" for share in controls]
    return tuple(
        SweepRow(
            name,
            replace(
                recipe, target=replace(recipe.target, defence=defence, weights=weights, stop=stop)
            ),
        )
        for name, (defence, weights), stop in zip(names, full, stops, strict=True)
    )


def run_row(
    row: SweepRow, place: Place, options: RunOptions, narrator: Narrator | None = None
) -> RecipeResult:
    """Train, attack and judge one row.

    Several processes may do this in one folder, each another row: who needs what another one is
    making just then (the evaluation classifier, the generator) waits for it.

    Args:
        row: From ``sweep_rows``.
        place: Of the sweep.
        options: How to run.
        narrator: Where to tell the story; by default stderr.

    Raises:
        ValueError: What ``run_recipe`` raises; another process has this very row.
    """
    return run_recipe(
        row.recipe,
        place.out / "points" / row.name,
        place.data_root,
        smoke=place.smoke,
        from_scratch=place.from_scratch,
        shared=place.out,
        judges=place.models,
        target=None if place.models is None else place.models / row.name,
        priors=place.priors,
        second_judge=place.second_judge,
        options=replace(options, patience=FOR_OTHERS),
        narrator=narrator,
    )


def run_sweep(
    rows: Sequence[SweepRow],
    place: Place,
    *,
    command: str = "",
    jobs: int = 1,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> Results:
    """Train, attack and judge a recipe at every point, alike but for the defence.

    Args:
        rows: From ``sweep_rows``.
        place: Folder of the sweep, whose finished stages are reused, and data.
        command: The command line, for the report.
        jobs: Rows at a time, above 1 each in a process of its own with one thread.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``results.json``.

    Raises:
        ValueError: No rows, ``jobs`` below 1, or what ``run_recipe`` raises.
        JobsError: A row of several jobs failed or was killed; the others are finished.
    """
    if not rows:
        raise ValueError("rows must not be empty")
    options = RunOptions(on_change="rerun") if options is None else options
    stages = sum(5 + len(row.recipe.attack.adaptive) for row in rows)
    narrator = narrator or Narrator(stages=stages)
    with locked(place.out):
        if jobs == 1:
            runs = []
            for row in rows:
                narrator.say(f"\n== {row.name}")
                runs.append(run_row(row, place, options, narrator))
        else:
            pieces = [
                Piece(row.name, run_row, (row, place, each), place.out / "points" / row.name / LOG)
                for row, each in zip(rows, _over_devices(options, len(rows)), strict=True)
            ]
            runs = share(pieces, jobs, narrator, _told)
        table = tuple(_row(row, run) for row, run in zip(rows, runs, strict=True))
        results = _results(rows[0].recipe, runs[0], table, command)
        write_results(results, place.out / "results.json")
        save_tradeoff(results, place.out / "tradeoff.png")
        save_tradeoff(results, place.out / "tradeoff.svg")
        write_report(results, place.out / "report.html")
        return results


def _over_devices(options: RunOptions, count: int) -> list[RunOptions]:
    """For each row, in turn another GPU where there are several; no bars, which would mix."""
    devices = [options.device]
    if options.device.type == "cuda" and options.device.index is None:
        devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [
        replace(options, progress=False, device=devices[i % len(devices)]) for i in range(count)
    ]


def _told(run: RecipeResult) -> str:
    return (
        f"natural accuracy {100 * run.natural_accuracy:.2f}%, "
        f"attack accuracy {100 * run.metrics.attack_accuracy:.1f}%"
    )


def _row(row: SweepRow, run: RecipeResult) -> Row:
    target = row.recipe.target
    return Row(
        name=row.name,
        defence=target.defence,
        label=label_of(target.defence),
        weights=dict(target.weights),
        natural_accuracy=run.natural_accuracy,
        val_accuracy=run.val_accuracy,
        attack=run.metrics,
        target_confidence=run.target_confidence,
        picture=f"points/{row.name}/attack/comparison.png",
        seconds={"training": run.seconds["target"], "attack": run.seconds["attack"]},
        config=run.config["target"],
        commands=(),
        second=run.second,
        adaptive=tuple(
            replace(one, picture=f"points/{row.name}/{one.picture}") for one in run.adaptive
        ),
    )


def _results(recipe: Recipe, run: RecipeResult, rows: tuple[Row, ...], command: str) -> Results:
    return Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        preset=recipe.name,
        seed=run.seed,
        seconds=run.seconds["evaluator"] + sum(sum(row.seconds.values()) for row in rows),
        machine=run.machine,
        versions=run.versions,
        task=_task(recipe, run),
        config={
            "data": run.config["data"],
            "evaluator": run.config["evaluator"],
            "generator": run.config["generator"],
            "attack": {"name": run.attack, **run.config["attack"]},
            **({"adaptive": run.config["adaptive"]} if run.adaptive else {}),
        },
        evaluator=EvaluatorResult(
            arch=recipe.evaluator.arch,
            test_accuracy=run.evaluator_accuracy,
            required_accuracy=run.required_evaluator_accuracy,
            seconds=run.seconds["evaluator"],
        ),
        rows=rows,
    )


def _task(recipe: Recipe, run: RecipeResult) -> dict[str, Any]:
    data = run.config["data"]
    classes = data["num_classes"]
    notes = [*recipe.differences, "The weights of the sweep were chosen by whoever ran it."]
    if run.smoke:
        notes.insert(0, "Smoke run: tiny made-up data and networks. The numbers mean nothing.")
    return {
        "name": recipe.data.private,
        "private": f"{classes} classes",
        "public": recipe.data.public or f"public part of {recipe.data.private}",
        **{key: data[key] for key in ("private_train", "private_val", "private_test")},
        "public_images": data["public_images"],
        "num_classes": classes,
        "chance_attack_accuracy": 1 / classes,
        "chance_note": (
            f"An image of a private class drawn at random hits the wanted class once in {classes}."
        ),
        "notes": notes,
    }
