# SPDX-License-Identifier: Apache-2.0
"""Run a recipe: data, evaluation classifier, target, attack, judgement, each a resumable stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bido_ext.lab.atomic import write_text
from bido_ext.lab.attack import ATTACKS, find_attack
from bido_ext.lab.attack_settings import settings_for
from bido_ext.lab.attacking import PublicSet, attack_target, train_prior
from bido_ext.lab.data import DataConfig, ImageSet, find_dataset
from bido_ext.lab.environment import machine_facts, package_versions
from bido_ext.lab.judge import PrivateReference, judge_attack, save_comparison
from bido_ext.lab.models import find_model
from bido_ext.lab.narrator import Narrator
from bido_ext.lab.pipeline import LabData, load_images, train_judge, train_target
from bido_ext.lab.presets import find_preset
from bido_ext.lab.small_data import write_small
from bido_ext.lab.stage import RunOptions
from bido_ext.lab.train_config import TrainConfig

from .schema import Recipe, from_table
from .summary import RecipeResult

WEIGHTS = "weights"


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
    search, prior_training = attack_settings(recipe, smoke=smoke)
    own_prior = find_attack(recipe.attack.name).needs == "ked gan"
    if smoke:
        data_root = shared / "data"
        for name in {recipe.data.private, recipe.data.public} - {"", "mnist", "synthetic"}:
            write_small(name, data_root / name, **asdict(recipe.smoke_data))
    fresh = smoke or from_scratch
    target_config = _with_weights(recipe.target, data_root, fresh)
    evaluator_config = _with_weights(recipe.evaluator, data_root, fresh)

    with say("Load the data", f"{recipe.data.private}: {recipe.title}") as told:
        cache = shared / "cache" if smoke else None
        data = _load(recipe, target_config, data_root, cache, options)
        judged_on = data
        if _size(evaluator_config) != _size(target_config):
            judged_on = _load(recipe, evaluator_config, data_root, cache, options)
        task = data.task
        told.append(
            f"{task.num_classes} classes, {len(task.train)} private training images, "
            f"{len(task.public)} public images"
        )
    with say(
        "Train the evaluation classifier", "It judges later; the attacker never uses it."
    ) as told:
        evaluator = train_judge(judged_on, evaluator_config, shared / "evaluator", options)
        told += [evaluator.note, f"test accuracy {100 * evaluator.test_accuracy:.2f}%"]
    with say("Train the classifier", f"Its defence: {target_config.defence}.") as told:
        target = train_target(data, target_config, out / "target", options)
        told += [target.note, f"natural accuracy {100 * target.test_accuracy:.2f}%"]
    with say("Attack the classifier", ATTACKS[recipe.attack.name].description) as told:
        prior, note = train_prior(
            recipe.attack.name, PublicSet.of(data), prior_training,
            (out if own_prior else shared) / "prior", options,
            target=target.model,
        )  # fmt: skip
        classes = range(min(recipe.attack.classes or task.num_classes, task.num_classes))
        attacked = attack_target(
            recipe.attack.name, target.model, prior, search, classes, out / "attack", options
        )
        told += [note and f"prior: {note}", attacked.note]
    with say("Judge the attack", "By the evaluation classifier, against the private images."):
        found = attacked.reconstructions
        private = ImageSet.of(task.train).only(found.classes)
        reference = PrivateReference.of(evaluator.model, *private.tensors)
        judged = (evaluator.model, found.images, found.classes, reference)
        metrics = judge_attack(*judged)
        save_comparison(out / "attack" / "comparison.png", *judged)
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
        target_confidence=float(found.target_confidence.mean()),
        config={
            "data": {
                **asdict(recipe.data),
                "sha256": data.digest,
                "private_train": len(task.train),
                "private_val": len(task.val),
                "private_test": len(task.test),
                "public_images": len(task.public),
                "num_classes": task.num_classes,
            },
            "target": asdict(target_config),
            "evaluator": asdict(evaluator_config),
            "attack": asdict(search),
            "prior": asdict(prior_training),
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


def attack_settings(recipe: Recipe, *, smoke: bool = False) -> tuple[Any, Any]:
    """Configurations of the attack and of its generator; in a smoke run those of the preset.

    Raises:
        ValueError: This release has no such attack, or a setting is unknown to it.
    """
    name = recipe.attack.name
    if name not in ATTACKS:
        raise ValueError(
            f"recipe {recipe.name} needs the attack {name!r}, this release has {', '.join(ATTACKS)}"
        )
    spec = find_attack(name)
    tables: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
        ("settings", spec.config, recipe.attack.settings),
        ("prior", spec.prior_config, recipe.attack.prior),
    )
    search, prior = (
        from_table(config, table, f"recipe {recipe.name}.attack.{part}")
        for part, config, table in tables
    )
    if smoke:
        return settings_for(find_preset("smoke").with_seed(recipe.target.seed), name)
    return search, prior


def _load(
    recipe: Recipe,
    config: TrainConfig,
    root: Path | None,
    cache: Path | None,
    options: RunOptions,
) -> LabData:
    """The recipe's images in the size of one classifier."""
    chosen = recipe.data
    two = chosen.public not in ("", chosen.private)
    images = DataConfig(
        private=chosen.private,
        root=_folder(root, chosen.private, only=not two),
        public=chosen.public or None,
        public_root=_folder(root, chosen.public, only=False) if two else None,
        image_size=_size(config),
        crop=None if chosen.crop < 0 else chosen.crop,
        public_crop=None if chosen.public_crop < 0 else chosen.public_crop,
        val_fraction=chosen.val_fraction,
        cache=cache,
    )
    return load_images(images, progress=options.progress)


def _folder(root: Path | None, name: str, *, only: bool) -> Path | None:
    if root is None or (not find_dataset(name).needs_root and not (root / name).is_dir()):
        return root if only else None
    if (root / name).is_dir():
        return root / name
    if only:
        return root
    raise ValueError(f"--data must hold a folder {name!r} for each data set, {root} has none")


def _size(config: TrainConfig) -> int:
    return find_model(config.arch).shape(config.arch_options)[-1]


def _with_weights(config: TrainConfig, root: Path | None, from_scratch: bool) -> TrainConfig:
    """``config`` with the path of its file of pretrained weights, or without one."""
    if not config.pretrained or from_scratch:
        return replace(config, pretrained="")
    path = Path(config.pretrained)
    found = path if path.is_absolute() or root is None else root / WEIGHTS / path
    if not found.is_file():
        raise ValueError(
            f"the recipe starts from {config.pretrained}, and there is no file {found}; put it "
            "there, or give --from-scratch (accuracies will be below the published ones)"
        )
    return replace(config, pretrained=str(found))
