# SPDX-License-Identifier: Apache-2.0
"""``bido list``: what can be named in the other commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json

KINDS = ("attacks", "defences", "models", "datasets", "presets")


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
    from bido_ext.lab.attack import ATTACKS
    from bido_ext.lab.defences import DEFENCES
    from bido_ext.lab.models import MODELS
    from bido_ext.lab.pipeline import DATASETS
    from bido_ext.lab.presets import PRESETS

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
        return [
            {
                "name": spec.name,
                "description": spec.description,
                "input_shape": list(spec.input_shape),
                "taps": list(spec.taps),
            }
            for spec in MODELS.values()
        ]
    if kind == "datasets":
        return [{"name": name, "description": text} for name, text in DATASETS.items()]
    return [{"name": spec.name, "description": spec.description} for spec in PRESETS.values()]
