# SPDX-License-Identifier: Apache-2.0
"""Writes the catalogue of ``bido list`` from the registries: ``python -m bido_ext.cli.catalogue``.

tests/cli/test_catalogue.py fails where it is out of date.
"""

from __future__ import annotations

import json
from typing import Any

from bido_ext.cli.list import CATALOGUE, KINDS


def catalogue_text() -> str:
    """The file as it should be."""
    return json.dumps({kind: rows_of(kind) for kind in KINDS}, indent=1) + "\n"


def rows_of(kind: str) -> list[dict[str, Any]]:
    """What the registries know of a kind, as ``bido list`` prints it."""
    import torch

    from bido_ext.lab.attacks import ATTACKS
    from bido_ext.lab.data import DATASETS
    from bido_ext.lab.defences import DEFENCES
    from bido_ext.lab.experiments.arena import arena_names, load_arena
    from bido_ext.lab.experiments.presets import PRESETS
    from bido_ext.lab.experiments.recipes import load_recipe, recipe_names
    from bido_ext.lab.models import LIBRARY_MODELS, MODELS, build_model

    if kind == "attacks":
        return [
            {
                "name": spec.name,
                "description": spec.description,
                "access": spec.access,
                "prior_of_target": spec.prior.of_target,
                "any_generator": spec.any_generator,
                "truncation": spec.truncation,
                "budget": hasattr(spec.config(), "budget"),
                "adaptive": spec.access == "white box",
            }
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
    if kind == "arenas":
        arenas = [load_arena(name)[0] for name in arena_names()]
        return [
            {
                "name": arena.name,
                "description": arena.title,
                "models": [model.name for model in arena.models],
                "attacks": [attack.name for attack in arena.attacks],
            }
            for arena in arenas
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


if __name__ == "__main__":
    CATALOGUE.write_text(catalogue_text())
