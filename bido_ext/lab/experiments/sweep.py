# SPDX-License-Identifier: Apache-2.0
"""One recipe under several weights of its defence: natural accuracy against attack accuracy.

Folder of a sweep: ``evaluator/``, ``prior/`` (if the attack's generator does not depend on the
target), ``points/<name>/`` with each model and its attack, ``results.json``, ``tradeoff.png``,
``report.html``.  Every step is a resumable stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bido_ext.lab.defences import label_of, resolve_weights
from bido_ext.lab.experiments.lock import locked
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


def run_sweep(
    recipe: Recipe,
    points: Sequence[Point],
    out: Path,
    data_root: Path | None = None,
    *,
    command: str = "",
    smoke: bool = False,
    from_scratch: bool = False,
    controls: Sequence[float] = CONTROLS,
    second_judge: bool = False,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> Results:
    """Train, attack and judge ``recipe`` at every point, alike but for the defence.

    Args:
        recipe: From ``load_recipe``.
        points: (defence, weights) of each row; weights not given are the defence's defaults.
        out: Folder of the sweep; finished stages in it are reused.
        data_root: As of ``run_recipe``.
        command: The command line, for the report.
        smoke: As of ``run_recipe``.
        from_scratch: As of ``run_recipe``.
        controls: Shares in (0, 1) of the undefended training, each a row of its own.
        second_judge: As of ``run_recipe``; trained once for all rows.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``results.json``.

    Raises:
        ValueError: No points, one that comes twice, or what ``run_recipe`` raises.
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
    narrator = narrator or Narrator(stages=5 * len(names))
    with locked(out):
        runs = []
        for name, (defence, weights), stop in zip(names, full, stops, strict=True):
            narrator.say(f"\n== {name}")
            chosen = replace(
                recipe, target=replace(recipe.target, defence=defence, weights=weights, stop=stop)
            )
            runs.append(
                run_recipe(
                    chosen,
                    out / "points" / name,
                    data_root,
                    smoke=smoke,
                    from_scratch=from_scratch,
                    shared=out,
                    second_judge=second_judge,
                    options=options,
                    narrator=narrator,
                )
            )
        rows = tuple(
            _row(name, point, run) for name, point, run in zip(names, full, runs, strict=True)
        )
        results = _results(recipe, runs[0], rows, command)
        write_results(results, out / "results.json")
        save_tradeoff(results, out / "tradeoff.png")
        write_report(results, out / "report.html")
        return results


def _row(name: str, point: Point, run: RecipeResult) -> Row:
    defence, weights = point
    return Row(
        name=name,
        defence=defence,
        label=label_of(defence),
        weights=dict(weights),
        natural_accuracy=run.natural_accuracy,
        val_accuracy=run.val_accuracy,
        attack=run.metrics,
        target_confidence=run.target_confidence,
        picture=f"points/{name}/attack/comparison.png",
        seconds={"training": run.seconds["target"], "attack": run.seconds["attack"]},
        config=run.config["target"],
        commands=(),
        second=run.second,
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
