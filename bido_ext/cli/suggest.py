# SPDX-License-Identifier: Apache-2.0
"""``bido suggest``: which weights of BiDO fit a model and its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Crop, Data, Device, Json, Seed, parse_words, print_json


@plain_errors
def suggest(
    model: Annotated[Path, typer.Argument(help="model.pt of bido train without a defence.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="Data set whose training images are used.")
    ] = "mnist",
    data: Data = None,
    measures: Annotated[
        str, typer.Option("--measures", help="Measures, with commas: nhsic, coco, hsic, cka.")
    ] = "nhsic,coco,hsic,cka",
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps", help="Layers that BiDO taps, with commas. Default: those of the network."
        ),
    ] = None,
    sigma: Annotated[float, typer.Option("--sigma", help="Bandwidth of the kernels.")] = 5.0,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", help="Batch size of your training; the weights depend on it."),
    ] = 64,
    batches: Annotated[int, typer.Option("--batches", help="Number of batches to measure.")] = 8,
    sampler: Annotated[
        str, typer.Option("--sampler", help="How your training draws batches: shuffle or identity.")
    ] = "shuffle",
    per_identity: Annotated[
        int,
        typer.Option(
            "--per-identity", help="Images of each person in a batch of --sampler identity."
        ),
    ] = 4,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for weights.png, weights.svg and weights.json.")
    ] = Path("runs/suggest"),
    crop: Crop = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Propose weights of BiDO for a model and its images.

    Train the model without a defence first, for an epoch or so. The command compares the gradient of
    each term with the push of the classification loss: the norm of its gradient when all classes
    are equally likely. A share of 30 % means that lambda_x times the gradient of its term is 0.3
    times the push. Below a few per cent, training hardly changes. Above 100 %, accuracy suffers.
    Start with the pair in the middle. weights.png has a light ground; weights.svg is light or dark,
    as its reader's screen is.

    \b
    Example:
      bido train --epochs 1 --out runs/none
      bido suggest runs/none/model.pt --dataset mnist
      bido suggest runs/faces/model.pt --dataset lfw --data ~/lfw --sampler identity --batch-size 32
    """
    from bido_ext.lab.data import DataConfig, find_dataset
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.suggest import suggest_for
    from bido_ext.lab.training.train_config import TrainConfig

    find_dataset(dataset)
    if batches < 1:
        raise ValueError(f"--batches must be at least 1, got {batches}")
    training = TrainConfig(
        batch_size=batch_size,
        sampler=sampler,  # type: ignore[arg-type]  # it checks the name
        per_identity=per_identity,
        seed=seed,
    )
    result = suggest_for(
        model,
        DataConfig(dataset, data, crop=crop),
        training,
        measures=parse_words(measures) or (),
        taps=parse_words(taps),
        sigma=sigma,
        batches=batches,
        device=pick_device(device),
        progress=not json,
    )
    picture, themed, numbers = result.save(out)
    if json:
        print_json(
            {
                **result.to_dict(),
                "picture": str(picture),
                "picture_svg": str(themed),
                "numbers": str(numbers),
            }
        )
        return
    typer.echo(
        f"{result.found}\npicture: {picture}, and {themed.name} (light or dark, as its reader's screen is)\n"
        f"numbers: {numbers}"
    )
