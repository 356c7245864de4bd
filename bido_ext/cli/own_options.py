# SPDX-License-Identifier: Apache-2.0
"""Messages of the lab in the words of one command: none may advise an option that it lacks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import typer

# What a recipe has in place of an option of the single steps.
_IN_A_RECIPE = {
    "--dataset": "private of [data] in the recipe",
    "--crop": "crop of [data] in the recipe",
    "--public": "public of [data] in the recipe",
    "--public-data": "--data",
    "--pretrained": "pretrained of [target] in the recipe",
    "--taps": "taps of [target] in the recipe",
}
# What a preset has.
_IN_A_PRESET = {"--dataset": "--preset"}
# Arguments that other commands take as options.
_AS_ARGUMENTS = {"--dataset": "dataset", "--data": "folder"}

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def in_words_of(command: Callable[..., Any], message: str) -> str:
    """``message`` with each option that ``command`` lacks under the name that the command has."""
    if not _OPTION.search(message):
        return message
    names = list(inspect.signature(command).parameters)
    own = {each for name in names for each in as_typed(command, name).split("/")}

    def renamed(option: re.Match[str]) -> str:
        typed = option.group()
        if typed in own:
            return typed
        if (argument := _AS_ARGUMENTS.get(typed)) in names:
            return as_typed(command, str(argument))
        if "recipe" in names or "smoke" in names:
            return _IN_A_RECIPE.get(typed, typed)
        return _IN_A_PRESET.get(typed, typed) if "preset" in names else typed

    return _OPTION.sub(renamed, message)


def as_typed(command: Callable[..., Any], name: str) -> str:
    """A parameter of ``command`` as the user gives it: --other-weights, or MODEL."""
    hint = get_type_hints(command, include_extras=True).get(name)
    if not hasattr(hint, "__metadata__"):
        # Up to Python 3.10 a default of None makes Optional[Annotated[...]] of it.
        hint = next((each for each in get_args(hint) if hasattr(each, "__metadata__")), None)
    for told in getattr(hint, "__metadata__", ()):
        if isinstance(told, typer.models.OptionInfo):
            # An annotated option has its name in the place of a default.
            given = (told.default, *(told.param_decls or ()))
            forms = (each for each in given if isinstance(each, str) and each.startswith("--"))
            return next(forms, "--" + name.replace("_", "-"))
        if isinstance(told, typer.models.ArgumentInfo):
            return name.upper()
    return name.replace("_", "-")
