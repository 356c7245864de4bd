# SPDX-License-Identifier: Apache-2.0
"""``bido export``: write a model in the format of the BiDO authors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Json, print_json

FORMATS = ("authors",)


@plain_errors
def export(
    model: Annotated[Path, typer.Argument(help="The model.pt to export.")],
    out: Annotated[
        Path, typer.Option("--out", help="File to write, such as VGG16_0.050&0.500_80.35.tar.")
    ],
    format_: Annotated[
        str,
        typer.Option("--format", help="Format: authors (as the code of the BiDO paper saves it)."),
    ] = "authors",
    layout: Annotated[
        str | None,
        typer.Option(
            help="Class of a VGG16: 'VGG16 (hsic_training)' (default) or 'VGG16' (undefended)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a model for the code of the BiDO authors.

    Their scripts load the file with strict=True. The other direction needs no command: bido attack,
    bido evaluate and bido train --pretrained read the authors' files as they are. Both sides use
    images in [0, 1].

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
