# SPDX-License-Identifier: Apache-2.0
"""``bido train``: one classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import (
    Data,
    Device,
    Fresh,
    Json,
    Preset,
    Seed,
    overridden,
    parse_weights,
    print_json,
)


@plain_errors
def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for model.pt, log.csv, checkpoint.")],
    defence: Annotated[str, typer.Option(help="See: bido list defences.")] = "none",
    weights: Annotated[
        str | None, typer.Option(help="As 0.1,1 or lambda_x=0.1,lambda_y=1; default: its own.")
    ] = None,
    evaluator: Annotated[
        bool, typer.Option("--evaluator", help="Train the evaluation classifier instead.")
    ] = False,
    arch: Annotated[str | None, typer.Option(help="See: bido list models.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or sgd.")] = None,
    preset: Preset = "quick",
    seed: Seed = 0,
    data: Data = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Train one classifier, with or without a defence.

    The epoch is selected on a validation split; the natural accuracy is that on the test set.
    A killed run continues from its last epoch when the same command is given again.

    \b
    Example:
      bido train --defence bido-hsic --weights 0.1,1 --epochs 5 --out runs/hsic
      bido train --evaluator --out runs/evaluator
    """
    from bido_ext.lab.models import MODELS
    from bido_ext.lab.pipeline import load_data, pick_device, train_judge, train_target
    from bido_ext.lab.presets import find_preset
    from bido_ext.lab.stage import RunOptions

    base = find_preset(preset).with_seed(seed)
    if evaluator and (defence != "none" or weights):
        raise ValueError("--evaluator takes no --defence and no --weights")
    config = overridden(
        base.evaluator if evaluator else base.target,
        defence=defence,
        weights=parse_weights(defence, weights),
        arch=arch,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,
    )
    options = RunOptions(fresh=fresh, progress=not json, device=pick_device(device))
    digits = load_data(base.data, data, MODELS[config.arch].input_shape[-1])
    trained = (train_judge if evaluator else train_target)(digits, config, out, options)
    if json:
        print_json(
            {
                "model": str(trained.path),
                "natural_accuracy": trained.test_accuracy,
                "val_accuracy": trained.val_accuracy,
                "seconds": trained.seconds,
            }
        )
        return
    if trained.note:
        typer.echo(trained.note, err=True)
    typer.echo(
        f"natural accuracy {100 * trained.test_accuracy:.2f}% on the test set "
        f"({100 * trained.val_accuracy:.2f}% on the validation split)\nmodel: {trained.path}"
    )
