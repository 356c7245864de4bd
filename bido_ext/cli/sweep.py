# SPDX-License-Identifier: Apache-2.0
"""``bido sweep``: one recipe under several weights of its defence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.list import attacks_that
from bido_ext.cli.options import (
    AdaptiveSet,
    DataFolder,
    Device,
    Fresh,
    Json,
    SecondJudge,
    Seed,
    parse_weights,
    print_json,
)
from bido_ext.cli.settings import with_settings


@plain_errors
def sweep(
    recipe: Annotated[str, typer.Argument(help="See: bido list recipes; or a .toml file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the sweep.")],
    weights: Annotated[
        list[str],
        typer.Option(help="As 0.05,0.5 or lambda_x=0.05,lambda_y=0.5; repeatable, one row each."),
    ],
    defence: Annotated[
        str | None, typer.Option(help="See: bido list defences; default: the recipe's.")
    ] = None,
    undefended: Annotated[
        bool,
        typer.Option(
            "--undefended/--no-undefended", help="Also train and attack an undefended model."
        ),
    ] = True,
    controls: Annotated[
        str,
        typer.Option(
            help="Shares of its training after which the undefended model is stopped and attacked "
            "too, as the measure of a defence; none: no such rows."
        ),
    ] = "0.02,0.06,0.2",
    second_judge: SecondJudge = True,
    data: DataFolder = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Seconds, on made-up data; the numbers mean nothing.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Train without the weights that the recipe names."),
    ] = False,
    adaptive: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{attacks_that('adaptive')}: attack every row also on a surrogate distilled from "
            "the model's answers to the public images (surrogate), or on both (surrogate+target), "
            "beside the plain attack; repeatable; none: not at all. Default: the recipe's."
        ),
    ] = None,
    adaptive_set: AdaptiveSet = None,
    jobs: Annotated[
        int, typer.Option(help="Rows at a time; above 1 each in a process with one thread.")
    ] = 1,
    row: Annotated[
        int | None,
        typer.Option(help="Run this row alone, from 1 on, and write no table: for job arrays."),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print the number and name of each row, and stop.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Run a recipe under several weights; write one report.

    Each row of the table is one classifier. Only the defence differs. The evaluator and the
    generator are trained once (the generator of ked once for each model). Some rows are undefended
    models that were stopped early: they show what a model of the same natural accuracy gives away
    without any defence. Give the command again to continue: only steps that are missing or have
    changed are run. With --jobs the progress of a row is in points/ROW/progress.txt.

    \b
    Example:
      bido sweep lfw64-vgg16-bido-hsic --data ~/sets --out runs/sweep \\
        --weights 0.05,0.5 --weights 0.05,1 --weights 0.05,2.5 --jobs 2
      bido sweep mnist-mcnn-bido-hsic --weights 0.05,0.5 --adaptive surrogate --out runs/adaptive
    """
    from dataclasses import replace

    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.recipes import load_recipe, text_summary
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.experiments.sweep import Place, run_row, run_sweep, sweep_rows
    from bido_ext.lab.report import (
        adaptive_text,
        headline,
        second_judge_text,
        text_table,
        tradeoff_of,
        tradeoff_text,
    )

    if smoke and data is not None:
        raise ValueError("--smoke draws its own data and takes no --data")
    chosen = load_recipe(recipe, smoke=smoke, seed=seed)
    chosen = replace(chosen, attack=_adaptive(chosen.attack, adaptive, adaptive_set or []))
    name = defence or chosen.target.defence
    points = [(name, parse_weights(name, text)) for text in weights]
    if undefended and name != "none":
        points.insert(0, ("none", {}))
    plan = sweep_rows(chosen, points, _shares(controls))
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    if row is not None and not 1 <= row <= len(plan):
        raise ValueError(f"--row must be 1 to {len(plan)}, see --rows; got {row}")
    if rows:
        for number, each in enumerate(plan, 1):
            typer.echo(f"{number} {each.name}")
        return
    command = ["bido", "sweep", recipe, *(part for text in weights for part in ("--weights", text))]
    command += ["--defence", name, "--seed", str(seed), "--out", str(out)]
    command += ["--controls", controls]
    command += ["--data", str(data)] if data is not None else []
    for option, given in (("--adaptive", adaptive), ("--adaptive-set", adaptive_set)):
        command += [part for text in given or [] for part in (option, text)]
    flags = {"--smoke": smoke, "--from-scratch": from_scratch, "--no-undefended": not undefended}
    flags["--no-second-judge"] = not second_judge
    command += [flag for flag, given in flags.items() if given]
    options = RunOptions(
        fresh=fresh, on_change="rerun", progress=not json, device=pick_device(device)
    )
    place = Place(out, data, smoke, from_scratch, second_judge)
    if row is not None:
        done = run_row(plan[row - 1], place, options)
        if json:
            print_json({"row": plan[row - 1].name, **done.to_dict()})
        else:
            typer.echo(f"{plan[row - 1].name}\n{text_summary(done)}")
        return
    results = run_sweep(plan, place, command=shlex.join(command), jobs=jobs, options=options)
    if json:
        print_json({**results.to_dict(), "tradeoff": tradeoff_of(results).to_dict()})
        return
    typer.echo(f"\n{text_table(results)}\n\n{headline(results)}\n")
    if told := second_judge_text(results):
        typer.echo(f"{told}\n")
    if told := adaptive_text(results):
        typer.echo(f"{told}\n")
    if told := tradeoff_text(results, tradeoff_of(results)):
        typer.echo(f"{told}\n")
    typer.echo(f"report:  {out / 'report.html'}\nnumbers: {out / 'results.json'}")


def _adaptive(attack: Any, kinds: list[str] | None, texts: list[str]) -> Any:
    """The recipe's attack with the adaptive attackers and their settings of the command line."""
    from dataclasses import replace

    from bido_ext.lab.attacks.adaptive import AdaptiveConfig

    if kinds is not None:
        attack = replace(attack, adaptive=() if kinds == ["none"] else tuple(kinds))
        if not attack.adaptive:
            attack = replace(attack, surrogate={})
    if texts and not attack.adaptive:
        raise ValueError("--adaptive-set is for --adaptive, which is missing")
    own = with_settings(AdaptiveConfig(**attack.surrogate), texts, "--adaptive-set")
    names = [*attack.surrogate, *(text.partition("=")[0].strip() for text in texts)]
    return replace(attack, surrogate={name: getattr(own, name) for name in names})


def _shares(text: str) -> tuple[float, ...]:
    try:
        return () if text == "none" else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--controls must be shares such as 0.02,0.2 or none, got {text!r}"
        ) from None
