# SPDX-License-Identifier: Apache-2.0
"""The commands of ``bido`` put together."""

from __future__ import annotations

from typing import Annotated

import typer

from bido_ext._version import __version__
from bido_ext.cli.arena import arena
from bido_ext.cli.attack import attack
from bido_ext.cli.bench import bench
from bido_ext.cli.compare import compare
from bido_ext.cli.data import data
from bido_ext.cli.demo import demo
from bido_ext.cli.doctor import doctor
from bido_ext.cli.evaluate import evaluate
from bido_ext.cli.export import export
from bido_ext.cli.list import list_
from bido_ext.cli.run import run
from bido_ext.cli.study import study
from bido_ext.cli.suggest import suggest
from bido_ext.cli.sweep import sweep
from bido_ext.cli.train import train
from bido_ext.cli.tune import tune

app = typer.Typer(
    name="bido",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bido {__version__}")
        raise typer.Exit


@app.callback()
def bido(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Train classifiers that resist model inversion, attack them, and judge the attack.

    \b
    First try:      bido demo --preset smoke    seconds, no download
                    bido demo                   minutes, MNIST
    Step by step:   bido train, then bido attack, then bido evaluate
    Choose weights: bido suggest
    Published runs: bido list recipes, then bido run RECIPE or bido sweep RECIPE
    All at once:    bido arena, every defence against every attack in one table
    Ask people:     bido study
    Compare layers: bido compare
    Measure speed:  bido bench, bido tune
    Something wrong? bido doctor

    Exit codes: 0 done, 1 failure, 2 bad input. Progress goes to stderr, results to stdout.
    """


for _command in (
    train, suggest, attack, evaluate, export, compare, demo, run, sweep, arena, bench, tune, doctor,
):  # fmt: skip
    app.command()(_command)
app.command("list")(list_)
app.add_typer(data, name="data")
app.add_typer(study, name="study")
