# SPDX-License-Identifier: Apache-2.0
"""``bido arena``: every defence against every attack, in one table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import DataFolder, Device, Json, SecondJudge, print_json


@plain_errors
def arena(
    name: Annotated[str, typer.Argument(help="See: bido list arenas; or a .toml file.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the arena; --plan needs none.")
    ] = None,
    data: DataFolder = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="A minute, on made-up data: the first two models and attacks; the numbers mean "
            "nothing.",
        ),
    ] = False,
    second_judge: SecondJudge = True,
    jobs: Annotated[
        int, typer.Option(help="Models at a time; above 1 each in a process with one thread.")
    ] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be run, sweep by sweep, and stop.")
    ] = False,
    sweep: Annotated[
        int | None,
        typer.Option(
            help="Run this sweep of the plan alone, from 1 on, and write no table: for job arrays."
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option("--table", help="Write the table of the finished sweeps, and run nothing."),
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack every defence with every attack; write one table.

    An arena is a file: models (a defence, its weights, its seeds), attacks and their settings. Each
    model is trained once and meets every attack. Undefended models that were stopped early show
    what a model of the same natural accuracy gives away without any defence. The table (arena.html,
    arena.svg, arena.json) is written after every sweep, and each sweep has its own report in
    seed-SEED/ATTACK/. Give the command again to continue: only steps that are missing or have
    changed are run. To start over, choose another folder.

    \b
    Example:
      bido arena mnist --out runs/arena --smoke
      bido arena mnist --out runs/arena --jobs 2
      bido arena my-arena.toml --plan
    """
    from bido_ext.lab.experiments.arena import (
        ArenaPlace,
        load_arena,
        run_arena,
        run_one,
        sweeps_of,
        write_table,
    )
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.report import text_table
    from bido_ext.lab.report.arena import arena_text

    if smoke and data is not None:
        raise ValueError("--smoke draws its own data and takes no --data")
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    if sum([plan, table, sweep is not None]) > 1:
        raise ValueError("--plan, --table and --sweep exclude each other: give one of them")
    chosen, training = load_arena(name, smoke=smoke)
    sweeps = sweeps_of(chosen, training, smoke=smoke)
    if sweep is not None and not 1 <= sweep <= len(sweeps):
        raise ValueError(f"--sweep must be 1 to {len(sweeps)}, see --plan; got {sweep}")
    if plan:
        for number, each in enumerate(sweeps, 1):
            names = ", ".join(row.name for row in each.rows)
            typer.echo(f"{number} {each.attack}, seed {each.seed}: {names}")
        trained = len({(each.seed, row.name) for each in sweeps for row in each.rows})
        typer.echo(f"{trained} trainings, {sum(len(each.rows) for each in sweeps)} attacks")
        return
    if out is None:
        raise ValueError("--out must name the folder of the arena")
    command = ["bido", "arena", name, "--out", str(out)]
    command += ["--data", str(data)] if data is not None else []
    flags = {"--smoke": smoke, "--no-second-judge": not second_judge}
    command += [flag for flag, given in flags.items() if given]
    options = RunOptions(on_change="rerun", progress=not json, device=pick_device(device))
    place = ArenaPlace(out, data, smoke, second_judge=second_judge)
    line = shlex.join(command)
    if sweep is not None:
        one = sweeps[sweep - 1]
        swept = run_one(one, place, command=line, jobs=jobs, options=options)
        if json:
            print_json(swept.to_dict())
        else:
            report = out / one.folder / "report.html"
            typer.echo(f"\n{text_table(swept)}\n\nreport: {report}")
        return
    if table:
        results = write_table(chosen, sweeps, place, command=line)
    else:
        results = run_arena(chosen, training, place, command=line, jobs=jobs, options=options)
    if json:
        print_json(results.to_dict())
        return
    typer.echo(f"\n{arena_text(results)}\n")
    typer.echo(f"table:   {out / 'arena.html'}\nnumbers: {out / 'arena.json'}")
