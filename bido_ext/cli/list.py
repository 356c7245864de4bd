# SPDX-License-Identifier: Apache-2.0
"""``bido list``: what can be named in the other commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json

KINDS = ("attacks", "defences", "models", "datasets", "presets", "recipes")


@plain_errors
def list_(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")],
    json: Json = False,
) -> None:
    """List what other commands can name.

    \b
    Example:
      bido list defences
      bido list models --json
    """
    rows = _rows(kind)
    if json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        weights = ", ".join(f"{key}={value:g}" for key, value in row.get("weights", {}).items())
        extra = f" (weights {weights})" if weights else ""
        typer.echo(f"{row['name']:<{width}}  {row['description']}{extra}")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind not in KINDS:
        raise ValueError(f"list must be given one of {', '.join(KINDS)}, got {kind!r}")
    import torch

    from bido_ext.lab.attack import ATTACKS
    from bido_ext.lab.data import DATASETS
    from bido_ext.lab.defences import DEFENCES
    from bido_ext.lab.models import LIBRARY_MODELS, MODELS, build_model
    from bido_ext.lab.presets import PRESETS
    from bido_ext.lab.recipes import load_recipe, recipe_names

    if kind == "attacks":
        return [
            {"name": spec.name, "description": spec.description, "access": spec.access}
            for spec in ATTACKS.values()
        ]
    if kind == "defences":
        return [
            {
                "name": spec.name,
                "description": spec.description,
                "weights": dict(spec.weights),
            }
            for spec in DEFENCES.values()
        ]
    if kind == "models":
        with torch.device("meta"):  # names alone: no weight is drawn
            taps = {name: list(build_model(name, 2).taps) for name in MODELS}  # type: ignore[arg-type]
        own = [
            {
                "name": spec.name,
                "description": spec.description,
                "input_shape": list(spec.input_shape),
                "options": spec.all_options(),
                "taps": taps[spec.name],
            }
            for spec in MODELS.values()
        ]
        return own + [
            {"name": name, "description": text, "input_shape": None, "options": {}, "taps": None}
            for name, text in LIBRARY_MODELS.items()
        ]
    if kind == "recipes":
        recipes = [load_recipe(name) for name in recipe_names()]
        return [
            {
                "name": recipe.name,
                "description": recipe.title,
                "published": recipe.published,
                "attack": recipe.attack.name,
            }
            for recipe in recipes
        ]
    if kind == "datasets":
        return [
            {
                "name": spec.name,
                "description": spec.description,
                "private": spec.private,
                "public": spec.public,
                "image_size": spec.image_size,
                "arch": spec.arch,
            }
            for spec in DATASETS.values()
        ]
    return [{"name": spec.name, "description": spec.description} for spec in PRESETS.values()]
