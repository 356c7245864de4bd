# SPDX-License-Identifier: Apache-2.0
"""Run a recipe: data, evaluation classifier, target, attack, judgement, each a resumable stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bido_ext.lab.atomic import write_text
from bido_ext.lab.attack import ATTACKS
from bido_ext.lab.attacking import Attacked
from bido_ext.lab.data import ImageSet
from bido_ext.lab.environment import machine_facts, package_versions
from bido_ext.lab.judge import AttackMetrics, PrivateReference, judge_attack, save_comparison
from bido_ext.lab.narrator import Narrator
from bido_ext.lab.pipeline import LabData, Trained, train_judge, train_target
from bido_ext.lab.stage import RunOptions

from .attack_step import attack_settings, run_attack
from .inputs import Inputs, size_of
from .schema import Recipe
from .summary import RecipeResult


def run_recipe(
    recipe: Recipe,
    out: Path,
    data_root: Path | None = None,
    *,
    smoke: bool = False,
    from_scratch: bool = False,
    shared: Path | None = None,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> RecipeResult:
    """Run ``recipe`` and write ``results.json`` into ``out``.

    Args:
        recipe: From ``load_recipe``.
        out: Folder of the run; finished stages in it are reused.
        data_root: Holds a folder for each data set, under its name (a recipe with one data set
            takes that folder itself too), and ``weights`` with files of pretrained weights.
        smoke: Draw tiny data sets into ``out`` and start from fresh weights.
        from_scratch: Start from fresh weights where the recipe names a file.
        shared: Folder of what runs with other targets share: made-up data, the evaluation
            classifier, and the generator unless it belongs to the target; default: ``out``.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``results.json``.

    Raises:
        ValueError: The attack, data or pretrained weights are missing, or do not fit.
    """
    options = RunOptions(on_change="rerun") if options is None else options
    say = (narrator or Narrator(stages=5)).stage
    shared = out if shared is None else shared
    settings = attack_settings(recipe, smoke=smoke, from_scratch=from_scratch)
    if smoke:
        inputs = Inputs.small(recipe, shared, options.progress)
    else:
        inputs = Inputs(recipe, data_root, None, from_scratch, options.progress)
    target_config, judge_config = map(inputs.weighted, (recipe.target, recipe.evaluator))
    inputs.weights(recipe.attack.generator)

    with say("Load the data", f"{recipe.data.private}: {recipe.title}") as told:
        data = judged_on = inputs.images(size_of(target_config))
        if size_of(judge_config) != size_of(target_config):
            judged_on = inputs.images(size_of(judge_config))
        told.append(_told(data))
    with say(
        "Train the evaluation classifier", "It judges later; the attacker never uses it."
    ) as told:
        evaluator = train_judge(judged_on, judge_config, shared / "evaluator", options)
        told += [evaluator.note, f"test accuracy {100 * evaluator.test_accuracy:.2f}%"]
    with say("Train the classifier", f"Its defence: {target_config.defence}.") as told:
        target = train_target(data, target_config, out / "target", options)
        told += [target.note, f"natural accuracy {100 * target.test_accuracy:.2f}%"]
    with say("Attack the classifier", ATTACKS[recipe.attack.name].description) as told:
        attacked, note = run_attack(inputs, settings, data, target, out, shared, options)
        told += [note and f"generator: {note}", attacked.note]
    with say("Judge the attack", "By the evaluation classifier, against the private images."):
        metrics = _judged(data, evaluator, attacked, out / "attack" / "comparison.png")
    result = RecipeResult(
        recipe=recipe.name,
        title=recipe.title,
        published=recipe.published,
        differences=recipe.differences,
        smoke=smoke,
        seed=recipe.target.seed,
        natural_accuracy=target.test_accuracy,
        evaluator_accuracy=evaluator.test_accuracy,
        required_evaluator_accuracy=recipe.required_evaluator_accuracy,
        attack=recipe.attack.name,
        metrics=metrics,
        val_accuracy=target.val_accuracy,
        target_confidence=float(attacked.reconstructions.target_confidence.mean()),
        config={
            "data": {**asdict(recipe.data), "sha256": data.digest, **_counts(data)},
            "target": asdict(target_config),
            "evaluator": asdict(judge_config),
            "attack": asdict(settings.search),
            "generator": note
            if inputs.weights(recipe.attack.generator)
            else asdict(settings.prior),
        },
        machine={**machine_facts(), "device": str(options.device)},
        versions=package_versions(),
        seconds={
            "evaluator": evaluator.seconds,
            "target": target.seconds,
            "attack": attacked.seconds,
        },
    )
    write_text(out / "results.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def _counts(data: LabData) -> dict[str, int]:
    task = data.task
    return {
        "private_train": len(task.train),
        "private_val": len(task.val),
        "private_test": len(task.test),
        "public_images": len(task.public),
        "num_classes": task.num_classes,
    }


def _told(data: LabData) -> str:
    task = data.task
    return (
        f"{task.num_classes} classes, {len(task.train)} private training images, "
        f"{len(task.public)} public images"
    )


def _judged(data: LabData, evaluator: Trained, attacked: Attacked, picture: Path) -> AttackMetrics:
    """Metrics against the private training images of the attacked classes, and the picture."""
    found = attacked.reconstructions
    private = ImageSet.of(data.task.train).only(found.classes)
    reference = PrivateReference.of(evaluator.model, private, private.labels)
    metrics = judge_attack(evaluator.model, found.images, found.classes, reference)
    save_comparison(picture, evaluator.model, found.images, found.classes, reference)
    return metrics
