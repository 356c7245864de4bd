# SPDX-License-Identifier: Apache-2.0
"""``bido data``: the data sets on disk."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from bido_ext._counted import counted
from bido_ext.cli.errors import FAILURE, plain_errors
from bido_ext.cli.options import Json, Public, PublicData, print_json
from bido_ext.cli.own_options import in_words_of

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def _data() -> None:
    """Check data sets before a long run.

    \b
    Example:
      bido data check lfw ~/lfw
    """


@data.command()
@plain_errors
def check(
    dataset: Annotated[str, typer.Argument(help="Name of the data set; see bido list datasets.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set.")] = None,
    public: Public = None,
    public_data: PublicData = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only lists and file names; open no image.")
    ] = False,
    json: Json = False,
) -> None:
    """Check one data set before a long run.

    Checks counts, labels and files, says what is left out, and finds images that are both private
    and public. Reads every image completely, unless you give --quick. Exit code 1 means that there
    is a problem. A data set without private images, such as ffhq, has only its images checked. To
    compare it with a private data set, give it as --public of that one.

    \b
    Example:
      bido data check lfw ~/lfw
      bido data check ffhq ~/thumbnails128x128
      bido data check celeba ~/celeba --public ffhq --public-data ~/thumbnails128x128 --json
    """
    from bido_ext.lab.data import DataConfig, find_dataset
    from bido_ext.lab.data.check import check_data, check_public

    if find_dataset(dataset).private:
        config = DataConfig(dataset, folder, public, public_data)
        report = check_data(config, quick=quick, progress=not json)
    elif public is None and public_data is None:
        report = check_public(dataset, folder, quick=quick, progress=not json)
    else:
        raise ValueError(
            f"{dataset!r} is public only: give a private data set, and --public {dataset}"
        )
    told = tuple(in_words_of(check, problem) for problem in report.problems)
    report = replace(report, problems=told)
    if json:
        print_json(asdict(report))
    else:
        for part, count in report.counts.items():
            typer.echo(f"{part:<8}{counted(count, 'image')}")
        if report.num_classes:
            low, high = report.images_per_class
            typer.echo(f"classes {report.num_classes} ({low} to {high} training images each)")
            if not report.identities_known:
                typer.echo("people  not told by the data: only files and their bytes were compared")
        if report.published:
            wanted = ", ".join(f"{part} {count}" for part, count in report.published.items())
            here = {**report.counts, "classes": report.num_classes}
            same = "as here" if here == report.published else "not as here"
            typer.echo(f"published split: {wanted} ({same})")
        for size, count in report.image_sizes.items():
            typer.echo(f"size    {size} pixels: {count} files")
        for note in report.notes:
            typer.echo(f"note    {note}")
        for problem in report.problems:
            typer.echo(f"problem {problem}")
        typer.echo("no problem found" if not report.problems else "")
    if report.problems:
        raise typer.Exit(FAILURE)
