# SPDX-License-Identifier: Apache-2.0
"""``bido study``: make the page of a user study, and count what participants said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Data, Json, Seed, print_json


class _BuildByDefault(TyperGroup):
    """``bido study DIR`` is ``bido study build DIR``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in (*self.commands, "--help"):
            args = ["build", *args]
        return super().parse_args(ctx, args)


study = typer.Typer(cls=_BuildByDefault, no_args_is_help=True, rich_markup_mode=None)


@study.callback()
def study_() -> None:
    """Ask people which reconstruction resembles a private image most.

    "bido study DIR... --out study.html" makes one web page. It needs no network. Participants
    answer in a browser and save a file. "bido study score" counts these files.

    \b
    Example:
      bido study runs/demo --out study.html
      bido study score answers-*.json --study study.json
    """


@study.command()
@plain_errors
def build(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of bido demo, sweep, run or attack. One of run or attack is one defence."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="File for the page. A .json file of the same name is written beside it."
        ),
    ] = Path("study.html"),
    defences: Annotated[
        str | None,
        typer.Option(
            "--defences", help="Defences to compare, with commas, at most 9. Default: all."
        ),
    ] = None,
    private: Annotated[
        Path | None,
        typer.Option(
            "--private",
            help=".npz file with images (uint8) and labels, instead of a data set.",
        ),
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", help="Number of identities; the first ones are taken.")
    ] = 150,
    question: Annotated[
        str | None, typer.Option("--question", help="The question shown between the pictures.")
    ] = None,
    seed: Seed = 0,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Data set of the private images. Default: the one in results.json."
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make the page of a study.

    For each identity the page shows a private image and one reconstruction of each defence, without
    names. The seed decides the order. Nothing is selected by its looks.

    \b
    Example:
      bido study runs/demo --defences none,bido-hsic-0.4-1 --out study.html
    """
    from bido_ext.lab.study import (
        build_study,
        find_candidates,
        key_beside,
        private_of,
        write_page,
        write_study,
    )
    from bido_ext.lab.study.build import QUESTION

    key = key_beside(out)
    only = [name.strip() for name in defences.split(",")] if defences else []
    made, pictures = build_study(
        find_candidates(results, only),
        private_of(results, file=private, dataset=dataset, data_root=data),
        seed=seed,
        classes=classes,
        question=question or QUESTION,
    )
    page = write_page(made, pictures, out)
    write_study(made, key)
    if json:
        print_json(
            {
                "page": str(page),
                "study": str(key),
                "hash": made.digest,
                "defences": list(made.defences),
                "identities": len(made.items),
            }
        )
        return
    typer.echo(
        f"{len(made.items)} identities, {len(made.defences)} defences: {', '.join(made.defences)}\n"
        f"page:  {page} (give this file to participants; its source names the defences)\n"
        f"study: {key} (hash {made.digest[:12]})"
    )


@study.command()
@plain_errors
def score(
    answers: Annotated[list[Path], typer.Argument(help="Files that participants have saved.")],
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", help="study.json of the study. Default: the study of the first file."
        ),
    ] = None,
    classes: Annotated[
        int,
        typer.Option(
            "--classes", help="Number of identities that count; the first ones are taken."
        ),
    ] = 150,
    json: Json = False,
) -> None:
    """Count how often each defence's reconstructions were selected as similar.

    Files of another study are refused, and so is one participant given twice.

    \b
    Example:
      bido study score answers-*.json --study study.json --classes 150
    """
    from bido_ext.lab.study import read_answers, read_study, score_table
    from bido_ext.lab.study import score as count

    result = count(
        {path: read_answers(path) for path in answers},
        study=read_study(study) if study else None,
        classes=classes,
    )
    if json:
        print_json(result.to_dict())
        return
    typer.echo(score_table(result))
