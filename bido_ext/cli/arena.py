# SPDX-License-Identifier: Apache-2.0
"""``bido arena``: every defence against every attack, in one table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Device, Fresh, Json, print_json


@plain_errors
def arena(
    name: Annotated[str, typer.Argument(help="See: bido list arenas; or a .toml file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the arena.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder with a folder for each data set, and weights/ for pretrained files.",
        ),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="A minute, on made-up data: the first two models and attacks; the numbers mean "
            "nothing.",
        ),
    ] = False,
    second_judge: Annotated[
        bool,
        typer.Option(
            "--second-judge/--no-second-judge",
            help="Judge by a second evaluation classifier too, of another architecture and seed.",
        ),
    ] = True,
    jobs: Annotated[
        int, typer.Option(help="Models at a time; above 1 each in a process with one thread.")
    ] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be run, sweep by sweep, and stop.")
    ] = False,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Attack every defence with every attack; write one table.

    An arena is a file: models (a defence, its weights, its seeds), attacks and their settings. Each
    model is trained once and meets every attack. Undefended models that were stopped early show
    what a model of the same natural accuracy gives away without any defence. The table (arena.html,
    arena.svg, arena.json) is written after every sweep, and each sweep has its own report in
    seed-SEED/ATTACK/. Give the command again to continue: only steps that are missing or have
    changed are run.

    \b
    Example:
      bido arena mnist --out runs/arena --smoke
      bido arena mnist --out runs/arena --jobs 2
      bido arena my-arena.toml --out runs/mine --plan
    """
    from bido_ext.lab.experiments.arena import ArenaPlace, load_arena, run_arena
    from bido_ext.lab.experiments.arena.run import rows_of
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.report.arena import arena_text

    if smoke and data is not None:
        raise ValueError("--smoke draws its own data and takes no --data")
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    chosen, training = load_arena(name, smoke=smoke)
    if plan:
        for seed in chosen.all_seeds:
            for attack in chosen.attacks:
                rows = rows_of(chosen, training, attack, seed, smoke=smoke)
                typer.echo(f"seed {seed}, {attack.name}: {', '.join(row.name for row in rows)}")
        return
    command = ["bido", "arena", name, "--out", str(out)]
    command += ["--data", str(data)] if data is not None else []
    flags = {"--smoke": smoke, "--no-second-judge": not second_judge}
    command += [flag for flag, given in flags.items() if given]
    options = RunOptions(
        fresh=fresh, on_change="rerun", progress=not json, device=pick_device(device)
    )
    place = ArenaPlace(out, data, smoke, second_judge=second_judge)
    results = run_arena(
        chosen, training, place, command=shlex.join(command), jobs=jobs, options=options
    )
    if json:
        print_json(results.to_dict())
        return
    typer.echo(f"\n{arena_text(results)}\n")
    typer.echo(f"table:   {out / 'arena.html'}\nnumbers: {out / 'arena.json'}")
