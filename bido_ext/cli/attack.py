# SPDX-License-Identifier: Apache-2.0
"""``bido attack``: one attack on one model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Data, Device, Fresh, Json, Preset, Seed, overridden, print_json
from bido_ext.cli.settings import parse_classes, with_settings


@plain_errors
def attack(
    model: Annotated[Path, typer.Argument(help="The model under attack: a model.pt.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for reconstructions.pt.")],
    prior: Annotated[
        Path, typer.Option("--prior", help="Folder of the generator; trained there if missing.")
    ],
    attack: Annotated[str, typer.Option(help="See: bido list attacks.")] = "gmi",
    classes: Annotated[
        str | None, typer.Option(help="Labels to attack, as 0-59,70; default: all.")
    ] = None,
    restarts: Annotated[int | None, typer.Option(help="Independent starts a class.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in the latents.")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size in the latents.")] = None,
    id_weight: Annotated[float | None, typer.Option(help="Weight of the identity loss.")] = None,
    prior_steps: Annotated[int | None, typer.Option(help="Generator steps of the prior.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the attack, as name=value; repeatable."),
    ] = None,
    prior_set: Annotated[
        list[str] | None,
        typer.Option("--prior-set", help="Any setting of the prior, as name=value; repeatable."),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(help="The attacker's images, an .npz with 'images'; default: of --data."),
    ] = None,
    force_foreign_gan: Annotated[
        bool,
        typer.Option(
            "--force-foreign-gan",
            help="KED-MI: attack with a GAN trained for another target (overstates defences).",
        ),
    ] = False,
    preset: Preset = "quick",
    seed: Seed = 0,
    data: Data = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Attack one model: rebuild its private classes.

    The attacker has the model's weights and public images only. GMI's generator does not depend on
    the model, so one --prior serves every model; KED-MI's belongs to one model, each needs a folder
    of its own. Judge the outcome with bido evaluate.

    \b
    Example:
      bido attack runs/hsic/model.pt --prior runs/gan --restarts 20 --out runs/gmi-hsic
      bido attack runs/hsic/model.pt --attack ked --prior runs/ked-gan-hsic --out runs/ked-hsic
    """
    from dataclasses import replace

    from bido_ext.lab.attack import find_attack
    from bido_ext.lab.attack_settings import settings_for
    from bido_ext.lab.attacking import attack_target, train_prior
    from bido_ext.lab.checkpoint import load_model
    from bido_ext.lab.pipeline import pick_device
    from bido_ext.lab.presets import find_preset
    from bido_ext.lab.stage import RunOptions

    base = find_preset(preset).with_seed(seed)
    find_attack(attack)
    if force_foreign_gan and attack != "ked":
        raise ValueError(f"--force-foreign-gan is for --attack ked, got --attack {attack}")
    search, training = settings_for(base, attack)
    search = overridden(
        search, **_known(search, restarts=restarts, steps=steps, lr=lr, id_weight=id_weight)
    )
    search = with_settings(search, set_ or [], "--set")
    training = with_settings(
        overridden(training, steps=prior_steps), prior_set or [], "--prior-set"
    )
    target, facts = load_model(model)
    options = RunOptions(fresh=fresh, progress=not json, device=pick_device(device))
    images = _public_set(public, base.data, data, facts, model)
    gan, told = train_prior(
        attack,
        images,
        training,
        prior,
        replace(options, fresh=False),  # --fresh is for the attack; others may use the prior
        target=target,
        force_foreign_gan=force_foreign_gan,
    )
    attacked = attack_target(
        attack, target, gan, search, parse_classes(classes, facts["num_classes"]), out, options,
        **({"force_foreign_gan": True} if force_foreign_gan else {}),
    )  # fmt: skip
    found = attacked.reconstructions
    confidence = float(found.target_confidence.mean())
    if json:
        print_json(
            {
                "reconstructions": str(attacked.path),
                "attack": attack,
                "target_confidence": confidence,
                "restarts": len(found.images),
                "classes": list(found.classes),
                "seconds": attacked.seconds,
            }
        )
        return
    for note in filter(None, (told and f"prior: {told}", attacked.note)):
        typer.echo(note, err=True)
    typer.echo(
        f"the model itself takes its reconstructions for the wanted class with probability "
        f"{confidence:.3f}; whether they show it, bido evaluate tells\n"
        f"reconstructions: {attacked.path}"
    )


def _known(config: Any, **given: Any) -> dict[str, Any]:
    """The options that were given, which must be settings of this attack."""
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if not hasattr(config, name):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is no setting of this attack ({type(config).__name__})")
    return given


def _public_set(
    public: Path | None, name: str, root: Path | None, facts: dict[str, Any], model: Path
) -> Any:
    """The attacker's images: those of ``--public``, else of the data set."""
    from bido_ext.lab.attacking import PublicSet
    from bido_ext.lab.models import MODELS
    from bido_ext.lab.pipeline import load_data

    shape = MODELS[facts["arch"]].input_shape
    if public is not None:
        images = PublicSet.read(public)
        if tuple(images.images.shape[1:]) != tuple(shape):
            raise ValueError(
                f"--public must hold images of shape {tuple(shape)}, as {model} takes them, got "
                f"{tuple(images.images.shape[1:])}"
            )
        return images
    data = load_data(name, root)
    if facts["num_classes"] != data.task.num_classes:
        raise ValueError(
            f"model must have the {data.task.num_classes} private classes, {model} has "
            f"{facts['num_classes']}; is it an evaluation classifier?"
        )
    return PublicSet.of(data)
