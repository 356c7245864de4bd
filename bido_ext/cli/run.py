# SPDX-License-Identifier: Apache-2.0
"""``bido run``: a whole experiment from a recipe."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import DataFolder, Device, Fresh, Json, Seed, print_json


@plain_errors
def run(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe (see bido list recipes), or a .toml file.")
    ],
    data: DataFolder = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the results. Default: runs/RECIPE.")
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Run every step in seconds on made-up data; the numbers mean nothing."
        ),
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch", help="Train without the pretrained weights that the recipe names."
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Run a recipe: train, attack and judge one classifier.

    Give the command again to continue: only steps that are missing or have changed are run. A
    smoke run makes its own data. It uses a temporary folder unless you give --out.

    \b
    Example:
      bido run celeba64-vgg16-bido-hsic --data ~/sets --out runs/hsic
      bido run lfw64-vgg16-bido-coco --smoke
    """
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.recipes import load_recipe, text_summary
    from bido_ext.lab.experiments.recipes.run import run_recipe
    from bido_ext.lab.experiments.stage import RunOptions

    if smoke and data is not None:
        raise ValueError("--smoke draws its own data and takes no --data")
    chosen = load_recipe(recipe, smoke=smoke, seed=seed)
    options = RunOptions(
        fresh=fresh, on_change="rerun", progress=not json, device=pick_device(device)
    )
    with ExitStack() as stack:
        folder = out or Path("runs") / chosen.name
        if smoke and out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bido-smoke-")))
        result = run_recipe(
            chosen, folder, data, smoke=smoke, from_scratch=from_scratch, options=options
        )
    if json:
        print_json(result.to_dict())
        return
    kept = "" if smoke and out is None else f"\nnumbers: {folder / 'results.json'}"
    typer.echo(f"\n{text_summary(result)}{kept}")
