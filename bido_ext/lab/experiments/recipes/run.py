# SPDX-License-Identifier: Apache-2.0
"""Run a recipe: data, evaluation classifier, target, attack, judgement, each a resumable stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.experiments.attacking import Attacked
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.pipeline import LabData, Trained, train_judge, train_target
from bido_ext.lab.experiments.second_judge import second_judge_of
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.judging import (
    AttackMetrics,
    PrivateReference,
    SecondJudge,
    judge_attack,
    save_comparison,
    second_opinion,
)
from bido_ext.lab.report import AdaptiveAttack

from .attack_step import AttackFolders, AttackRun, AttackSettings, attack_settings, run_attack
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
    judges: Path | None = None,
    target: Path | None = None,
    priors: Path | None = None,
    second_judge: bool = False,
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
        judges: Folder of the evaluation classifiers, if that is another one; default: ``shared``.
        target: Folder of the attacked classifier, which other attacks meet too; default: ``target``
            in ``out``.
        priors: Folder of the generators, if other attacks on the same data use them too. There each
            lies under its settings, and one that belongs to a target under that one's name.
        second_judge: Train a second evaluation classifier too, and say where the two disagree.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``results.json``.

    Raises:
        ValueError: The attack, data or pretrained weights are missing, or do not fit.
    """
    options = RunOptions(on_change="rerun") if options is None else options
    shared = out if shared is None else shared
    folders = AttackFolders(out, shared, target or out / "target", priors)
    settings = attack_settings(recipe, smoke=smoke, from_scratch=from_scratch)
    if smoke:
        inputs = Inputs.small(recipe, shared, options.progress)
    else:
        inputs = Inputs(recipe, data_root, None, from_scratch, options.progress)
    plan = replace(
        recipe,
        target=inputs.weighted(recipe.target),
        evaluator=inputs.weighted(recipe.evaluator),
    )
    # All that is missing is told before anything is trained.
    sees_public = ATTACKS[recipe.attack.name].sees_public
    if sees_public or settings.adaptive or inputs.weights(recipe.attack.generator) is None:
        inputs.check_public()
    with locked(out):
        found = _run(
            plan, inputs, settings, folders, judges or shared, second_judge, options,
            narrator or Narrator(stages=5 + len(settings.adaptive)),
        )  # fmt: skip
        config = {
            "data": {**asdict(recipe.data), "sha256": found.data.digest, **found.counts()},
            "target": asdict(plan.target),
            "evaluator": asdict(plan.evaluator),
            "attack": asdict(settings.search),
            "generator": found.attack.generator
            if inputs.weights(recipe.attack.generator)
            else asdict(settings.prior),
        }
        if settings.adaptive:
            config["adaptive"] = {kind: asdict(each) for kind, each in settings.adaptive.items()}
        result = found.result(plan, config, smoke=smoke, device=str(options.device))
        write_text(out / "results.json", json.dumps(result.to_dict(), indent=2) + "\n")
        found.draw(out)  # last: the numbers do not wait for a picture
        return result


@dataclass(frozen=True)
class _Found:
    """What the stages of a run gave."""

    data: LabData
    evaluator: Trained
    target: Trained
    attack: AttackRun
    metrics: AttackMetrics
    reference: PrivateReference
    second: SecondJudge | None
    adaptive: Mapping[str, tuple[AttackRun, AttackMetrics]]

    def draw(self, out: Path) -> None:
        runs = {"": self.attack, **{kind: run for kind, (run, _) in self.adaptive.items()}}
        for kind, run in runs.items():
            found = run.attacked.reconstructions
            save_comparison(
                out / _picture(kind), self.evaluator.model, found.images, found.classes,
                self.reference,
            )  # fmt: skip

    def counts(self) -> dict[str, int]:
        task = self.data.task
        return {
            "private_train": len(task.train),
            "private_val": len(task.val),
            "private_test": len(task.test),
            "public_images": self.attack.public_images,
            "num_classes": task.num_classes,
        }

    def result(
        self, recipe: Recipe, config: dict[str, Any], *, smoke: bool, device: str
    ) -> RecipeResult:
        return RecipeResult(
            recipe=recipe.name,
            title=recipe.title,
            published=recipe.published,
            differences=recipe.differences,
            smoke=smoke,
            seed=recipe.target.seed,
            natural_accuracy=self.target.test_accuracy,
            evaluator_accuracy=self.evaluator.test_accuracy,
            required_evaluator_accuracy=recipe.required_evaluator_accuracy,
            attack=recipe.attack.name,
            metrics=self.metrics,
            val_accuracy=self.target.val_accuracy,
            target_confidence=float(self.attack.attacked.reconstructions.target_confidence.mean()),
            config=config,
            machine={**machine_facts(), "device": device},
            versions=package_versions(),
            seconds={
                "evaluator": self.evaluator.seconds,
                "target": self.target.seconds,
                "attack": self.attack.attacked.seconds,
            },
            second=self.second,
            adaptive=tuple(
                AdaptiveAttack(
                    kind, metrics, float(run.attacked.reconstructions.target_confidence.mean()),
                    _picture(kind), run.attacked.seconds, dict(run.config),
                )
                for kind, (run, metrics) in self.adaptive.items()
            ),
        )  # fmt: skip


def _run(
    plan: Recipe,
    inputs: Inputs,
    settings: AttackSettings,
    folders: AttackFolders,
    judges: Path,
    second_judge: bool,
    options: RunOptions,
    narrator: Narrator,
) -> _Found:
    """The five stages, and one for each adaptive attacker."""
    say = narrator.stage
    with say("Load the data", f"{plan.data.private}: {plan.title}") as told:
        # Without the public images: another public set, or none, needs no other classifiers.
        data = judged_on = inputs.images(size_of(plan.target), private_only=True)
        if size_of(plan.evaluator) != size_of(plan.target):
            judged_on = inputs.images(size_of(plan.evaluator), private_only=True)
        told.append(_told(data))
    with say(
        "Train the evaluation classifier", "It judges later; the attacker never uses it."
    ) as told:
        evaluator = train_judge(judged_on, plan.evaluator, judges / "evaluator", options)
        told += [evaluator.note, f"test accuracy {100 * evaluator.test_accuracy:.2f}%"]
    with say("Train the classifier", f"Its defence: {plan.target.defence}.") as told:
        target = train_target(data, plan.target, folders.target, options)
        told += [target.note, f"natural accuracy {100 * target.test_accuracy:.2f}%"]
    with say("Attack the classifier", ATTACKS[plan.attack.name].description) as told:
        attack = run_attack(inputs, settings, data.task.num_classes, target, folders, options)
        told += [attack.generator and f"generator: {attack.generator}", attack.attacked.note]
    adaptive: dict[str, tuple[AttackRun, AttackMetrics]] = {}
    for kind in settings.adaptive:
        with say("Attack it adaptively", f"On {kind}, not on the classifier alone.") as told:
            run = run_attack(
                inputs, settings, data.task.num_classes, target, folders, options, kind=kind
            )
            adaptive[kind] = (run, _judged(data, evaluator, run.attacked)[0])
            told += [run.generator and f"generator: {run.generator}", run.attacked.note]
    second = None
    with say(
        "Judge the attack", "By the evaluation classifier, against the private images."
    ) as told:
        metrics, reference = _judged(data, evaluator, attack.attacked)
        if second_judge:
            config = second_judge_of(plan.evaluator, plan.target)
            images = inputs.images(size_of(config), private_only=True)
            other = train_judge(images, config, judges / "second_evaluator", options)
            found = attack.attacked.reconstructions
            opinion = second_opinion(evaluator.model, other.model, found.images, found.classes)
            second = SecondJudge(config.arch, other.test_accuracy, opinion)
            told.append(
                f"second judge ({config.arch}, test accuracy {100 * other.test_accuracy:.2f}%)"
            )
    return _Found(data, evaluator, target, attack, metrics, reference, second, adaptive)


def _picture(kind: str) -> str:
    """Of an attack, in the folder of the run; ``kind`` is empty for the plain one."""
    return f"attack-{kind}/comparison.png" if kind else "attack/comparison.png"


def _told(data: LabData) -> str:
    task = data.task
    return f"{task.num_classes} classes, {len(task.train)} private training images"


def _judged(
    data: LabData, evaluator: Trained, attacked: Attacked
) -> tuple[AttackMetrics, PrivateReference]:
    """Metrics against the private training images of the attacked classes, and those."""
    found = attacked.reconstructions
    private = ImageSet.of(data.task.train).only(found.classes)
    reference = PrivateReference.of(evaluator.model, private, private.labels)
    metrics = judge_attack(
        evaluator.model, found.images, found.classes, reference, draws=found.draws
    )
    return metrics, reference
