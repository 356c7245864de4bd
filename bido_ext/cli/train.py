# SPDX-License-Identifier: Apache-2.0
"""``bido train``: one classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import (
    Crop,
    Data,
    Dataset,
    Device,
    Fresh,
    Json,
    Preset,
    Public,
    PublicData,
    Seed,
    overridden,
    parse_pairs,
    parse_weights,
    parse_words,
    print_json,
)


@plain_errors
def train(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for model.pt, log.csv and the checkpoint.")
    ],
    defence: Annotated[
        str, typer.Option(help="Name of the defence; see bido list defences.")
    ] = "none",
    weights: Annotated[
        str | None,
        typer.Option(help="Weights, as 0.1,1 or lambda_x=0.1,lambda_y=1. Default: the defence's."),
    ] = None,
    evaluator: Annotated[
        bool,
        typer.Option("--evaluator", help="Train the evaluation classifier, which judges attacks."),
    ] = False,
    arch: Annotated[
        str | None, typer.Option(help="Name of the network; see bido list models.")
    ] = None,
    arch_options: Annotated[
        str | None, typer.Option(help="Options of the network, as image_size=64,width=0.5.")
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option(help="Layers that BiDO taps, with commas. Default: those of the network."),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="File with weights to start from, of safetensors or PyTorch."),
    ] = None,
    reinit: Annotated[
        str | None,
        typer.Option(help="Modules that do not take weights from --pretrained. Default: head."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training set. A larger number continues a run (not with cosine)."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in each training step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or sgd.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay of the optimizer.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning-rate schedule: constant, cosine or multistep (see --milestones)."
        ),
    ] = None,
    milestones: Annotated[
        str | None,
        typer.Option(help="Epochs after which multistep multiplies by --gamma, as 20,35."),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Factor of the learning rate at each milestone.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Augmentation: none, flip, crop-flip, photo, handwriting or public-digits."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="How batches are drawn: shuffle, or identity (a few images each of a few people)."
        ),
    ] = None,
    per_identity: Annotated[
        int | None, typer.Option(help="Images of each person in a batch of --sampler identity.")
    ] = None,
    stop: Annotated[
        float | None,
        typer.Option(help="Stop after this share of the training, as for a control. Default: 1."),
    ] = None,
    preset: Preset = "quick",
    seed: Seed = 0,
    dataset: Dataset = None,
    data: Data = None,
    crop: Crop = None,
    public: Public = None,
    public_data: PublicData = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Train one classifier, with or without a defence.

    A validation split selects the best epoch. The natural accuracy is measured on the test set. If
    a run is killed, give the same command again: it continues from its last epoch. Image files are
    decoded once and cached.

    \b
    Example:
      bido train --defence bido-hsic --weights 0.1,1 --epochs 5 --out runs/hsic
      bido train --evaluator --out runs/evaluator
      bido train --dataset lfw --data ~/lfw --sampler identity --augment flip --out runs/faces
    """
    from bido_ext.lab.data import DataConfig, find_dataset
    from bido_ext.lab.experiments.pipeline import (
        load_images,
        pick_device,
        train_judge,
        train_target,
    )
    from bido_ext.lab.experiments.presets import find_preset
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.models import find_model

    base = find_preset(preset).with_seed(seed)
    if evaluator and (defence != "none" or weights):
        raise ValueError("--evaluator takes no --defence and no --weights")
    name = dataset or base.data
    spec = find_dataset(name)
    given = parse_pairs(arch_options, "--arch-options")
    usual = spec.judge if evaluator else spec.arch
    if dataset is not None and arch in (None, usual):
        arch, given = usual, {**spec.arch_options, **given}
    config = overridden(
        base.evaluator if evaluator else base.target,
        defence=defence,
        weights=parse_weights(defence, weights),
        arch=arch,
        arch_options=given or None,
        taps=parse_words(taps),
        pretrained=None if pretrained is None else str(pretrained),
        reinit=parse_words(reinit),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule="multistep" if milestones and schedule is None else schedule,
        milestones=_numbers(milestones),
        gamma=gamma,
        augment=augment,
        sampler=sampler,
        per_identity=per_identity,
        stop=stop,
    )
    size = find_model(config.arch).shape(config.arch_options)[-1]
    images = DataConfig(name, data, public, public_data, image_size=size, crop=crop)
    options = RunOptions(fresh=fresh, progress=not json, device=pick_device(device))
    loaded = load_images(images, progress=not json)
    trained = (train_judge if evaluator else train_target)(loaded, config, out, options)
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


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--milestones must be numbers such as 20,35, got {text!r}") from None
