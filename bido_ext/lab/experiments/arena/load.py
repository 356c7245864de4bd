# SPDX-License-Identifier: Apache-2.0
"""Arenas from TOML files, and the recipe of each of their attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bido_ext.lab.attacks import find_attack
from bido_ext.lab.experiments.recipes import Recipe, load_recipe
from bido_ext.lab.experiments.recipes.load import SUFFIX, read_toml
from bido_ext.lab.experiments.recipes.schema import RecipeAttack, from_table
from bido_ext.lab.training.check import check_defence
from bido_ext.lab.training.train_config import TrainConfig

from .schema import Arena, ArenaAttack, ArenaModel

#: Of a smoke run: so many models and attacks, the first ones.
SMOKE_MODELS, SMOKE_ATTACKS = 2, 2
#: Of a training's settings, what each model has for itself.
_OF_MODELS = {"defence", "weights", "seed", "stop"}


def arena_names() -> list[str]:
    """Names of the arenas that come with the package."""
    files = resources.files(__package__).iterdir()
    return sorted(f.name.removesuffix(SUFFIX) for f in files if f.name.endswith(SUFFIX))


def load_arena(name: str, *, smoke: bool = False) -> tuple[Arena, dict[str, Any]]:
    """Load an arena.

    Args:
        name: One of ``arena_names()``, or the path of a TOML file.
        smoke: Keep the first models and attacks alone, one seed and one control.

    Returns:
        The arena; the tables ``target`` and ``evaluator`` of the file, which hold over the
        recipe's.

    Raises:
        ValueError: No such arena, or a file with an unknown key, a missing one, or a bad value.
    """
    path = Path(name)
    if path.suffix == SUFFIX and path.is_file():
        name = path.stem
    elif name in arena_names():
        path = Path(str(resources.files(__package__) / f"{name}{SUFFIX}"))
    else:
        raise ValueError(
            f"arena must be one of {', '.join(arena_names())}, or a .toml file, got {name!r}"
        )
    table = read_toml(path, "arena")
    where = f"arena {name}"
    training = {key: table.pop(key, {}) for key in ("target", "evaluator")}
    _check_training(training, where)
    for key, kind in (("models", ArenaModel), ("attacks", ArenaAttack)):
        rows = table.get(key, [])
        if rows == []:
            raise ValueError(f"{where}: it needs at least one table [[{key}]]")
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(f"{where}: {key} must be tables [[{key}]], got {rows!r}")
        table[key] = tuple(
            from_table(kind, row, f"{where}.{key}[{i}]") for i, row in enumerate(rows)
        )
    arena = from_table(Arena, {"name": name, **table}, where)
    if smoke:
        models = tuple(replace(model, seeds=()) for model in arena.models[:SMOKE_MODELS])
        arena = replace(
            arena, models=models, attacks=arena.attacks[:SMOKE_ATTACKS], seeds=arena.seeds[:1],
            controls=arena.controls[:1],
        )  # fmt: skip
    # Before hours are spent on the first.
    recipes = [
        recipe_of(arena, training, attack, arena.all_seeds[0], smoke=smoke)
        for attack in arena.attacks
    ]
    for model in arena.models:
        target = target_of(arena, recipes[0], model, smoke=smoke)
        try:
            check_defence(target, num_classes=2, images=1000)  # of any data set
        except ValueError as error:
            raise ValueError(f"{where}: {model.name}: {error}") from None
    return arena, training


def _check_training(training: Mapping[str, Any], where: str) -> None:
    for key, own in training.items():
        if not isinstance(own, Mapping):
            raise ValueError(f"{where}: {key} must be a table [{key}], got {own!r}")
        if taken := _OF_MODELS & set(own):
            raise ValueError(
                f"{where}.{key}: {', '.join(sorted(taken))} must stand in [[models]], or follows "
                "from seeds and controls"
            )


def recipe_of(
    arena: Arena, training: Mapping[str, Any], attack: ArenaAttack, seed: int, *, smoke: bool
) -> Recipe:
    """The recipe of one attack and one seed; its target is undefended.

    Raises:
        ValueError: A setting of the attack or of the training is unknown or out of range.
    """
    base = load_recipe(arena.recipe, smoke=smoke, seed=seed)
    where, spec = f"arena {arena.name}", find_attack(attack.name)
    presets: dict[str, Any] = {
        "settings": spec.settings(attack.preset),
        "prior": spec.prior.settings(attack.preset),
    }
    tables: dict[str, Any] = {}
    for part, preset in presets.items():
        table = {**asdict(preset), **getattr(attack, part), "seed": seed}
        tables[part] = asdict(from_table(type(preset), table, f"{where}.{attack.name}.{part}"))
    target, evaluator = (
        base_config
        if smoke
        else from_table(
            type(base_config), {**asdict(base_config), **training[key]}, f"{where}.{key}"
        )
        for key, base_config in (("target", base.target), ("evaluator", base.evaluator))
    )
    target = replace(target, defence="none", weights={})
    chosen = RecipeAttack(attack.name, **tables)
    return replace(
        base, name=arena.name, title=f"{arena.title}: {attack.name}", published="",
        target=target, evaluator=evaluator, attack=chosen,
    )  # fmt: skip


def target_of(arena: Arena, recipe: Recipe, model: ArenaModel, *, smoke: bool) -> TrainConfig:
    """How one model is trained: as the recipe says, with its own defence and settings.

    Raises:
        ValueError: A setting of the model is unknown or out of range.
    """
    own = {} if smoke else model.training
    table = {**asdict(recipe.target), **own, "defence": model.defence, "weights": model.weights}
    return from_table(TrainConfig, table, f"arena {arena.name}: {model.name}")
