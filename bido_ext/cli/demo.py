# SPDX-License-Identifier: Apache-2.0
"""``bido demo``: train, attack and judge all defences on MNIST, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Data, Device, Fresh, Json, Preset, Seed, print_json


@plain_errors
def demo(
    preset: Preset = "quick",
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/demo"),
    seed: Seed = 0,
    data: Data = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Train and attack all defences on MNIST; write a report.

    The result is a table and one HTML file, report.html. Give the command again to continue: only
    steps that are missing or have changed are run. Presets: quick (minutes), paper (the full MNIST
    protocol, many hours on a CPU), smoke (seconds, made-up digits; the numbers mean nothing).

    \b
    Example:
      bido demo --out runs/demo
      bido demo --preset paper --seed 1 --out runs/paper-1
    """
    from bido_ext.lab.experiments.demo import run_demo
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.presets import find_preset
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.report import headline, text_table

    options = RunOptions(
        fresh=fresh, on_change="rerun", progress=not json, device=pick_device(device)
    )
    results = run_demo(find_preset(preset), out, seed=seed, data_root=data, options=options)
    if json:
        print_json(results.to_dict())
        return
    typer.echo(f"\n{text_table(results)}\n\n{headline(results)}\n")
    typer.echo(f"report:  {out / 'report.html'}\nnumbers: {out / 'results.json'}")
