# SPDX-License-Identifier: Apache-2.0
"""``bido export``: a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json

FORMATS = ("authors",)


@plain_errors
def export(
    model: Annotated[Path, typer.Argument(help="The model.pt to write.")],
    out: Annotated[Path, typer.Option("--out", help="The file, as VGG16_0.050&0.500_80.35.tar.")],
    format_: Annotated[
        str, typer.Option("--format", help="authors: as the code of the BiDO paper saves it.")
    ] = "authors",
    layout: Annotated[
        str | None,
        typer.Option(
            help="VGG16: 'VGG16 (hsic_training)', the default, or 'VGG16', the undefended class."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a model so that the code of the BiDO authors loads it, with strict=True.

    Their files are read without a command: bido attack, bido evaluate and bido train --pretrained
    take them as they are. Images are in [0, 1] there and here.

    \b
    Example:
      bido export runs/hsic/model.pt --out MCNN_0.050\\&0.500.tar
    """
    from bido_ext.lab.models.authors import write_authors
    from bido_ext.lab.models.checkpoint import load_model

    if format_ not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format_!r}")
    network, facts = load_model(model)
    name = write_authors(network, facts["arch"], facts["arch_options"], out, layout)
    if json:
        print_json({"file": str(out), "class": name, "classes": facts["num_classes"]})
        return
    typer.echo(f"for the class {name} with {facts['num_classes']} outputs: {out}")
