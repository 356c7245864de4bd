# SPDX-License-Identifier: Apache-2.0
"""Recipes from TOML files: ``extends`` names another, whose values hold where none is given.

Files whose names begin with an underscore are only there to be extended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from .schema import Recipe, from_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIX = ".toml"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files(__package__).iterdir()
    names = [file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX)]
    return sorted(name for name in names if not name.startswith("_"))


def load_recipe(name: str, *, smoke: bool = False, seed: int = 0) -> Recipe:
    """Load a recipe.

    Args:
        name: One of ``recipe_names()``, or the path of a TOML file.
        smoke: Apply the recipe's table ``smoke`` on top: tiny networks and budgets.
        seed: Starts every random stream.

    Raises:
        ValueError: No such recipe, or a file with an unknown key, a missing one, or a bad value.
    """
    path = Path(name)
    if path.suffix == SUFFIX and path.is_file():
        table, name = read_toml(path, "recipe"), path.stem
    elif name in recipe_names():
        table = _shipped(name)
    else:
        raise ValueError(
            f"recipe must be one of {', '.join(recipe_names())}, or a .toml file, got {name!r}"
        )
    table = _extended(table, name)
    small = table.pop("smoke", {})
    if smoke:
        table = _merged(table, small)
    recipe = from_table(Recipe, {"name": name, **table}, f"recipe {name}")
    return replace(
        recipe,
        target=replace(recipe.target, seed=seed),
        evaluator=replace(recipe.evaluator, seed=seed),
        attack=replace(
            recipe.attack,
            settings={**recipe.attack.settings, "seed": seed},
            prior={**recipe.attack.prior, "seed": seed},
        ),
    )


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: The file, UTF-8.
        what: What to call it in errors.

    Raises:
        ValueError: No such file, or no TOML.
    """
    if not path.is_file():  # a pipe would wait for a writer
        raise ValueError(f"{what}: there is no file {path}")
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path} is no valid TOML in UTF-8: {error}") from error


def _shipped(name: str) -> dict[str, Any]:
    file = resources.files(__package__) / f"{name}{SUFFIX}"
    if not file.is_file():
        raise ValueError(f"extends: there is no recipe {name!r}")
    return _parsed(file.read_text(encoding="utf-8"), name)


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {name} is no valid TOML: {error}") from error


def _extended(table: dict[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    base = table.pop("extends", None)
    if base is None:
        return table
    if base in (*seen, name):
        raise ValueError(f"recipe {name} extends itself, through {base!r}")
    return _merged(_extended(_shipped(base), base, (*seen, name)), table)


# What belongs to a choice and goes with it, as weights do with their defence.
_BELONGINGS = {
    "defence": ("weights",),
    "arch": ("arch_options", "pretrained", "reinit"),
    "name": ("settings", "prior", "generator", "truncation", "prior_size"),  # of an attack
}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: tables are merged, all else is replaced."""
    gone = {name for key in above for name in _BELONGINGS.get(key, ())}
    merged = {key: value for key, value in below.items() if key not in gone}
    for key, value in above.items():
        old = merged.get(key)
        tables = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if tables else value  # type: ignore[arg-type]
    return merged
