# SPDX-License-Identifier: Apache-2.0
"""``bido list``: what can be named in the other commands, from the catalogue beside this file."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json

KINDS = ("attacks", "defences", "models", "datasets", "presets", "recipes", "arenas")
#: Written by ``python -m bido_ext.cli.catalogue``, so that a list need not load PyTorch.
CATALOGUE = Path(__file__).parent / "catalogue.json"


@plain_errors
def list_(
    kind: Annotated[
        str, typer.Argument(help=f"What to list: {', '.join(KINDS)}. Without it: these words.")
    ] = "",
    json: Json = False,
) -> None:
    """List the names that other commands take.

    \b
    Example:
      bido list defences
      bido list models --json
    """
    commands: list[dict[str, Any]] = [
        {"name": name, "description": f"bido list {name}"} for name in KINDS
    ]
    rows = rows_of(kind) if kind else commands
    if json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        weights = ", ".join(f"{key}={value:g}" for key, value in row.get("weights", {}).items())
        extra = f" (weights {weights})" if weights else ""
        if "access" in row:
            extra = f" [{row['access']}{', --adaptive' if row['adaptive'] else ''}]"
        typer.echo(f"{row['name']:<{width}}  {row['description']}{extra}")


def rows_of(kind: str) -> list[dict[str, Any]]:
    """The rows of the catalogue.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"list must be given one of {', '.join(KINDS)}, got {kind!r}")
    return json_format.loads(CATALOGUE.read_text())[kind]  # type: ignore[no-any-return]


def attacks_that(fact: str) -> str:
    """Names of the attacks of which the catalogue says ``fact``, for help and errors."""
    return ", ".join(row["name"] for row in rows_of("attacks") if row[fact])
