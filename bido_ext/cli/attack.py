# SPDX-License-Identifier: Apache-2.0
"""``bido attack``: one attack on one model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Data, Device, Fresh, Json, Preset, Seed, overridden, print_json


@plain_errors
def attack(
    model: Annotated[Path, typer.Argument(help="The model under attack: a model.pt.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for reconstructions.pt.")],
    prior: Annotated[
        Path, typer.Option("--prior", help="Folder of the generator; trained there if missing.")
    ],
    attack: Annotated[str, typer.Option(help="See: bido list attacks.")] = "gmi",
    restarts: Annotated[int | None, typer.Option(help="Independent starts a class.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in the latents.")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size in the latents.")] = None,
    id_weight: Annotated[float | None, typer.Option(help="Weight of the identity loss.")] = None,
    prior_steps: Annotated[int | None, typer.Option(help="Generator steps of the prior.")] = None,
    preset: Preset = "quick",
    seed: Seed = 0,
    data: Data = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Attack one model: rebuild its private classes.

    The attacker has the model's weights and public images only. Its generator does not depend on
    the model, so one --prior serves every attack. Judge the outcome with bido evaluate.

    \b
    Example:
      bido attack runs/hsic/model.pt --prior runs/gan --restarts 20 --out runs/gmi-hsic
    """
    from dataclasses import replace

    from bido_ext.lab.attack import ATTACKS
    from bido_ext.lab.checkpoint import load_model
    from bido_ext.lab.pipeline import attack_target, load_data, pick_device, train_prior
    from bido_ext.lab.presets import find_preset
    from bido_ext.lab.stage import RunOptions

    base = find_preset(preset).with_seed(seed)
    if attack not in ATTACKS:
        raise ValueError(f"--attack must be one of {', '.join(ATTACKS)}, got {attack!r}")
    target, facts = load_model(model)
    settings = overridden(base.attack, restarts=restarts, steps=steps, lr=lr, id_weight=id_weight)
    options = RunOptions(fresh=fresh, progress=not json, device=pick_device(device))
    digits = load_data(base.data, data)
    if facts["num_classes"] != digits.task.num_classes:
        raise ValueError(
            f"model must have the {digits.task.num_classes} private classes, {model} has "
            f"{facts['num_classes']}; is it an evaluation classifier?"
        )
    gan, _ = train_prior(
        digits,
        overridden(base.prior, steps=prior_steps),
        prior,
        replace(options, fresh=False),  # --fresh is for the attack; others may use the prior
    )
    attacked = attack_target(
        target, facts["arch"], gan, settings, digits.task.num_classes, out, options
    )
    confidence = float(attacked.reconstructions.target_confidence.mean())
    if json:
        print_json(
            {
                "reconstructions": str(attacked.path),
                "target_confidence": confidence,
                "restarts": settings.restarts,
                "classes": list(attacked.reconstructions.classes),
                "seconds": attacked.seconds,
            }
        )
        return
    if attacked.note:
        typer.echo(attacked.note, err=True)
    typer.echo(
        f"the model itself takes its reconstructions for the wanted class with probability "
        f"{confidence:.3f}; whether they show it, bido evaluate tells\n"
        f"reconstructions: {attacked.path}"
    )
