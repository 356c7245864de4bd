# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

AdaptiveSet = Annotated[
    list[str] | None,
    typer.Option("--adaptive-set", help="Any setting of the surrogate, as name=value; repeatable."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of the data set. MNIST needs none: it is downloaded once.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="Name of the data set; see bido list datasets. Default: the preset's."
    ),
]
Public = Annotated[
    str | None,
    typer.Option(
        "--public",
        help="Data set of the attacker's public images. Default: the public part of --dataset.",
    ),
]
PublicData = Annotated[
    Path | None, typer.Option("--public-data", help="Folder of the public data set.")
]
Crop = Annotated[
    int | None,
    typer.Option(
        "--crop",
        help="Side in pixels of the square cropped from the middle of each image; 0: the largest.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto (cuda if there is one).")]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh/--resume",
        help="Start from the beginning, or reuse finished steps and continue an interrupted one.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print only JSON to stdout, and no progress bars.")
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", help="Default settings: quick, paper or smoke. Other options change them."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with a folder for each data set, and weights/ for pretrained files.",
    ),
]
SecondJudge = Annotated[
    bool,
    typer.Option(
        "--second-judge/--no-second-judge",
        help="Judge by a second evaluation classifier too, of another architecture and seed.",
    ),
]

T = TypeVar("T")


def overridden(config: T, **given: Any) -> T:
    """A config dataclass with the options that were given (not None) in place of its values."""
    changes = {key: value for key, value in given.items() if value is not None}
    return replace(config, **changes)  # type: ignore[type-var]


def parse_pairs(text: str | None, option: str) -> dict[str, str]:
    """Read "width=0.5,image_size=32".

    Raises:
        ValueError: If a part is no pair, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or name in pairs:
            raise ValueError(f"{option} must be name=value,... each name once, got {text!r}")
        pairs[name] = value
    return pairs


def parse_words(text: str | None) -> tuple[str, ...] | None:
    """Read "layer1,layer2"; None stays None."""
    return None if text is None else tuple(filter(None, (w.strip() for w in text.split(","))))


def parse_weights(defence: str, text: str | None) -> dict[str, float]:
    """Read "0.1,1" (in the order of ``bido list defences``) or "lambda_x=0.1,lambda_y=1".

    Raises:
        ValueError: If the defence is unknown, the text does not fit its weights, or a weight comes
            twice.
    """
    from bido_ext.lab.defences import resolve_weights

    names = list(resolve_weights(defence, {}))  # names an unknown defence
    if not text:
        return {}
    parts = [part.strip() for part in text.split(",")]
    named = ["=" in part for part in parts]
    if any(named) != all(named) or (not any(named) and len(parts) != len(names)):
        wanted = ",".join(f"{name}=..." for name in names) or "none"
        raise ValueError(f"--weights of {defence!r} must be {wanted}, got {text!r}")
    pairs = [
        part.split("=", 1) if "=" in part else (name, part)
        for name, part in zip(names if not any(named) else parts, parts, strict=True)
    ]
    try:
        weights = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"--weights must be numbers, got {text!r}") from None
    if len(weights) != len(pairs):
        raise ValueError(f"--weights must give each weight once, got {text!r}")
    return resolve_weights(defence, weights)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
