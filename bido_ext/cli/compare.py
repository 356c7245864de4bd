# SPDX-License-Identifier: Apache-2.0
"""``bido compare``: which layers of two models are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Crop, Device, Json, Seed, parse_pairs, parse_words, print_json


@plain_errors
def compare(
    model: Annotated[
        str,
        typer.Argument(
            help="A model.pt, or a name such as torchvision/resnet18 (see bido list models)."
        ),
    ],
    other: Annotated[
        str | None,
        typer.Argument(
            help="A second model. Default: compare the layers of MODEL with each other."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Data set whose test images are used; see bido list datasets."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of the data set. Without --dataset: any folder of images."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Weights of MODEL, if it is a name. Without it the model is untrained.",
        ),
    ] = None,
    other_weights: Annotated[
        Path | None, typer.Option("--other-weights", help="Weights of OTHER, if it is a name.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", help="Layers of MODEL, with commas. Default: its building blocks."
        ),
    ] = None,
    other_layers: Annotated[
        str | None,
        typer.Option(
            "--other-layers",
            help="Layers of OTHER. Default: as --layers if it has them, else its blocks.",
        ),
    ] = None,
    arch_options: Annotated[
        str | None,
        typer.Option(
            "--arch-options",
            help="Options of a model given by name: image_size=32,pixel_range=imagenet.",
        ),
    ] = None,
    other_arch_options: Annotated[
        str | None,
        typer.Option(
            "--other-arch-options", help="The same for OTHER. Default: as --arch-options."
        ),
    ] = None,
    classes: Annotated[
        int,
        typer.Option(
            "--classes", help="Number of outputs of a model given by name; must fit its weights."
        ),
    ] = 1000,
    images: Annotated[int, typer.Option("--images", help="Largest number of images.")] = 2048,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images in each mini-batch.")
    ] = 128,
    measure: Annotated[
        str, typer.Option("--measure", help="cka, or hsic for values that are not normalized.")
    ] = "cka",
    estimator: Annotated[
        str,
        typer.Option(
            "--estimator", help="unbiased or biased; biased values depend on --batch-size."
        ),
    ] = "unbiased",
    kernel: Annotated[str, typer.Option("--kernel", help="Kernel: linear or gaussian.")] = "linear",
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for similarity.png, similarity.svg and similarity.json."
        ),
    ] = Path("runs/compare"),
    crop: Crop = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Show which layers of two models, or of one, are alike.

    Both models get the same images. The result is CKA for every pair of layers. 1 means the same
    representation up to rotation and scale. 0 means that they have nothing in common. An estimate
    near 0 may be negative. In the picture the layers of MODEL go from bottom to top, and those of
    OTHER from left to right. A layer that gives the same output for all images is grey.
    similarity.png has a light ground; similarity.svg is light or dark, as its reader's screen is.

    \b
    Example:
      bido compare runs/none/model.pt runs/hsic/model.pt --dataset mnist
      bido compare torchvision/resnet18 torchvision/resnet34 --weights resnet18.pth \\
        --other-weights resnet34.pth --arch-options pixel_range=imagenet --data ~/photos
      bido compare timm/vit_tiny_patch16_224 --data ~/photos --images 512 --json
    """
    from bido_ext.lab.experiments.compare import (
        ImageChoice,
        ModelChoice,
        compare_models,
        comparison_text,
    )
    from bido_ext.lab.experiments.pipeline import pick_device

    given = {"--other-weights": other_weights, "--other-layers": other_layers,
             "--other-arch-options": other_arch_options}  # fmt: skip
    for option, value in given.items():
        if other is None and value is not None:
            raise ValueError(f"{option} needs a second model")
    options = parse_pairs(arch_options, "--arch-options")
    first = ModelChoice(model, weights, classes, options, parse_words(layers), seed)
    second = None
    if other is not None:
        own = parse_pairs(other_arch_options, "--other-arch-options")
        if other_arch_options is None and not other.endswith(".pt"):
            own = options
        second = ModelChoice(
            other, other_weights, classes, own, parse_words(other_layers), seed + 1
        )
    found = compare_models(
        first,
        second,
        ImageChoice(dataset, data, crop, images, batch_size, seed),
        measure=measure,
        estimator=estimator,
        kernel=kernel,
        device=pick_device(device),
        progress=not json,
    )
    picture, themed, numbers = found.save(out)
    if json:
        print_json(
            {
                **found.to_dict(),
                "picture": str(picture),
                "picture_svg": str(themed),
                "numbers": str(numbers),
            }
        )
        return
    typer.echo(
        f"{comparison_text(found)}\npicture: {picture}, and {themed.name} (light or dark, as its "
        f"reader's screen is)\nnumbers: {numbers}"
    )
