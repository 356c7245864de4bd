# SPDX-License-Identifier: Apache-2.0
"""Every recipe runs from made-up data to judgement."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes import load_recipe, recipe_names, text_summary
from bido_ext.lab.experiments.recipes.run import run_recipe
from bido_ext.lab.experiments.stage import RunOptions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder_for(tmp_path_factory):
    """Recipes that judge alike share a folder: its evaluator is trained once, as a user's would."""
    folders = {}

    def folder(recipe) -> Path:
        kind = repr((recipe.data, recipe.smoke_data, recipe.evaluator))
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("recipes")
        return folders[kind]

    return folder


def of_each_kind() -> list[Any]:
    """All recipes; slow where the attack, the data and the network are those of an earlier one."""
    seen, rows = set(), []
    for name in recipe_names():
        recipe = load_recipe(name)
        kind = recipe.attack.name, recipe.data.private, recipe.target.arch
        rows.append(pytest.param(name, marks=[pytest.mark.slow] * (kind in seen)))
        seen.add(kind)
    return rows


@pytest.mark.parametrize("name", of_each_kind())
def test_smoke(name, folder_for):
    recipe = load_recipe(name, smoke=True)
    if recipe.attack.name not in ATTACKS:
        pytest.skip(f"the attack {recipe.attack.name!r} is not part of this release yet")
    out = folder_for(recipe)
    told = io.StringIO()
    options = RunOptions(on_change="rerun", progress=False)
    result = run_recipe(recipe, out, smoke=True, options=options, narrator=Narrator(5, told))
    assert json.loads((out / "results.json").read_text())["recipe"] == name
    assert 0 <= result.natural_accuracy <= 1
    assert 0 <= result.metrics.attack_accuracy <= 1
    assert (out / "attack" / "comparison.png").is_file()
    assert recipe.published.split()[0] in text_summary(result)
    assert "[5/5]" in told.getvalue()
