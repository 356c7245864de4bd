# SPDX-License-Identifier: Apache-2.0
"""Recipes: one file for each published row, run from data to judgement by ``bido run``."""

from .load import load_recipe, recipe_names
from .schema import Recipe, RecipeAttack, RecipeData
from .summary import RecipeResult, text_summary

__all__ = [
    "Recipe",
    "RecipeAttack",
    "RecipeData",
    "RecipeResult",
    "load_recipe",
    "recipe_names",
    "text_summary",
]
