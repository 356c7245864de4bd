# SPDX-License-Identifier: Apache-2.0
"""``bido attack``: one attack on one model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext._counted import counted
from bido_ext.cli.errors import plain_errors
from bido_ext.cli.list import attacks_that, rows_of
from bido_ext.cli.options import (
    AdaptiveSet,
    Crop,
    Data,
    Dataset,
    Device,
    Fresh,
    Json,
    Preset,
    Public,
    PublicData,
    Seed,
    overridden,
    print_json,
)
from bido_ext.cli.settings import parse_classes, with_file, with_settings

_ATTACKS = rows_of("attacks")


_PSI = ", ".join(
    f"{row['truncation']:g} for {row['name']}" for row in _ATTACKS if row["truncation"] != 1
)


@plain_errors
def attack(
    model: Annotated[Path, typer.Argument(help="The model under attack: a model.pt.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for reconstructions.pt.")],
    prior: Annotated[
        Path | None,
        typer.Option(
            "--prior",
            help="Folder of the generator, trained there if missing. One serves every model, but "
            f"that of {attacks_that('prior_of_target')} belongs to one model.",
        ),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help=f"{attacks_that('any_generator')}: a StyleGAN2 state dict instead of --prior."
        ),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help=f"Psi of --generator; default: 1, {_PSI}.")
    ] = None,
    attack: Annotated[str, typer.Option(help="See: bido list attacks.")] = _ATTACKS[0]["name"],
    classes: Annotated[
        str | None, typer.Option(help="Labels to attack, as 0-59,70; default: all.")
    ] = None,
    restarts: Annotated[int | None, typer.Option(help="Independent starts for each class.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in the latents.")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size in the latents.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(help=f"{attacks_that('budget')}: the most queries altogether; 0: no limit."),
    ] = None,
    id_weight: Annotated[float | None, typer.Option(help="Weight of the identity loss.")] = None,
    prior_steps: Annotated[int | None, typer.Option(help="Generator steps of the prior.")] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="A .toml file with the settings of --set and --prior-set, in [attack] and [prior]."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the attack, as name=value; repeatable."),
    ] = None,
    prior_set: Annotated[
        list[str] | None,
        typer.Option("--prior-set", help="Any setting of the prior, as name=value; repeatable."),
    ] = None,
    public_images: Annotated[
        Path | None,
        typer.Option(help="The attacker's images as an .npz with 'images', instead of a data set."),
    ] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            help=f"{attacks_that('adaptive')}: run on a surrogate distilled from the model's answers to "
            "the public images (surrogate), or on both (surrogate+target): against defences that "
            "bend the model's own gradients. A generator that belongs to one model is trained for "
            "the surrogate."
        ),
    ] = None,
    adaptive_set: AdaptiveSet = None,
    force_foreign_gan: Annotated[
        bool,
        typer.Option(
            "--force-foreign-gan",
            help=f"{attacks_that('prior_of_target')}: attack with a GAN trained for another target "
            "(overstates defences).",
        ),
    ] = False,
    preset: Preset = "quick",
    seed: Seed = 0,
    dataset: Dataset = None,
    data: Data = None,
    crop: Crop = None,
    public: Public = None,
    public_data: PublicData = None,
    device: Device = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Attack one model: rebuild its private classes.

    The attacker has public images. It also has the model's weights, or only its answers to queries:
    see bido list attacks. The result is judged by bido evaluate. If an attack is killed, give the
    same command again and it continues. Most attacks share one generator: give the same --prior for
    every model. Under torchrun all processes share the work, each on a GPU of its own if there are
    several. An option overrides the file of --settings, and the file overrides the preset.

    \b
    Example:
      bido attack runs/hsic/model.pt --prior runs/gan --restarts 20 --out runs/gmi-hsic
      bido attack runs/hsic/model.pt --attack ked --prior runs/ked-gan-hsic --out runs/ked-hsic
      bido attack runs/hsic/model.pt --prior runs/gan --adaptive surrogate --out runs/gmi-hsic-2
      bido attack runs/faces/model.pt --attack ppa --dataset lfw --data ~/lfw --classes 0-19 \\
        --prior runs/faces-gan --prior-set augment=flip --out runs/ppa-faces
      torchrun --nproc-per-node 8 -m bido_ext attack runs/faces/model.pt --prior runs/faces-gan ...
    """
    from dataclasses import replace

    from bido_ext.lab.attacks import find_attack, load_stylegan2
    from bido_ext.lab.attacks.adaptive import KINDS, PRESETS, AdaptiveConfig, check_white_box
    from bido_ext.lab.attacks.ranks import Ranks
    from bido_ext.lab.data import DataConfig
    from bido_ext.lab.experiments.adaptive import FOLDER, adapt
    from bido_ext.lab.experiments.attack_settings import settings_for
    from bido_ext.lab.experiments.attacking import attack_target, train_prior
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.presets import find_preset
    from bido_ext.lab.experiments.stage import RunOptions
    from bido_ext.lab.models import find_model
    from bido_ext.lab.models.authors import UNKNOWN
    from bido_ext.lab.models.checkpoint import load_model

    base = find_preset(preset).with_seed(seed)
    spec = find_attack(attack)
    if force_foreign_gan and not spec.prior.of_target:
        raise ValueError(
            f"--force-foreign-gan is for --attack {attacks_that('prior_of_target')}, got --attack {attack}"
        )
    if adaptive is not None:
        if adaptive not in KINDS:
            raise ValueError(f"--adaptive must be one of {', '.join(KINDS)}, got {adaptive!r}")
        check_white_box(spec)
    elif adaptive_set:
        raise ValueError("--adaptive-set is for --adaptive, which is missing")
    if (prior is None) == (generator is None):
        raise ValueError(
            "give --prior FOLDER (a generator is trained there if there is none) or --generator FILE, not both"
        )
    if generator is not None and not spec.any_generator:
        raise ValueError(
            f"--generator is for --attack {attacks_that('any_generator')}, got --attack {attack}"
        )
    search, training = settings_for(base, attack)
    if settings is not None:
        search, training = with_file(search, training, settings)
    options_given = _known(
        search, restarts=restarts, steps=steps, lr=lr, id_weight=id_weight, budget=budget
    )
    search = with_settings(overridden(search, **options_given), set_ or [], "--set")
    training = with_settings(
        overridden(training, steps=prior_steps), prior_set or [], "--prior-set"
    )
    target, facts = load_model(model)
    labels = parse_classes(classes, facts["num_classes"])
    shape = find_model(facts["arch"]).shape(facts["arch_options"])
    known = facts["defence"] != UNKNOWN
    defence = (facts["defence"], facts["weights"]) if known else ("none", {})
    ranks = Ranks.of_environment()
    quiet = json or not ranks.leads
    options = RunOptions(fresh=fresh, progress=not quiet, device=pick_device(device))
    gan: Any
    images, told = None, ""
    if generator is None or spec.sees_public or adaptive is not None:
        images = _public_set(
            public_images,
            DataConfig(dataset or base.data, data, public, public_data, shape[-1], crop),
            facts["num_classes"], shape, model, progress=not quiet,
        )  # fmt: skip
    met, adapted, learnt = target, None, ""
    if adaptive is not None:
        assert images is not None
        own = replace(PRESETS.get(preset, AdaptiveConfig()), seed=seed)
        given = [*(adaptive_set or []), f"kind={adaptive}"]
        own = with_settings(own, given, "--adaptive-set")
        made = adapt(attack, own, target, images, out / FOLDER, options, ranks)
        met, adapted, learnt = made.network, (made.network, made.settings), made.note
    if generator is not None:
        psi = spec.truncation if truncation is None else truncation
        gan = load_stylegan2(generator, truncation=psi)
    else:
        assert prior is not None
        assert images is not None
        gan, told = train_prior(
            attack,
            images,
            training,
            prior,
            replace(options, fresh=False),  # --fresh is for the attack; others may use the prior
            target=met,
            force_foreign_gan=force_foreign_gan,
            defence=defence,
            budget=getattr(search, "budget", 0),
            ranks=ranks,
        )
    more: dict[str, Any] = {"force_foreign_gan": True} if force_foreign_gan else {}
    attacked = attack_target(
        attack, target, gan, search, labels, out, options,
        defence=defence, public=images, side=shape[-1], adapted=adapted, ranks=ranks, **more,
    )  # fmt: skip
    if not ranks.leads:
        return
    found = attacked.reconstructions
    confidence = float(found.target_confidence.mean())
    asked = "" if found.queries is None else f"{counted(found.queries, 'query', 'queries')}\n"
    if json:
        print_json(
            {
                "reconstructions": str(attacked.path),
                "attack": attack,
                "adaptive": adaptive,
                "target_confidence": confidence,
                "restarts": len(found.images),
                "classes": list(found.classes),
                "queries": found.queries,
                "seconds": attacked.seconds,
            }
        )
        return
    notes = (learnt and f"surrogate: {learnt}", told and f"prior: {told}", attacked.note)
    for note in filter(None, notes):
        typer.echo(note, err=True)
    typer.echo(
        f"{asked}the attacked model gives its reconstructions the wanted class with probability "
        f"{confidence:.3f}; to see whether an independent judge agrees, run bido evaluate\n"
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
    file: Path | None, config: Any, classes: int, shape: tuple[int, int, int], model: Path,
    *, progress: bool,
) -> Any:  # fmt: skip
    """The attacker's images: those of ``--public-images``, else of the data set."""
    from bido_ext.lab.data.registry import check_channels, class_counts
    from bido_ext.lab.experiments.attacking import PublicSet
    from bido_ext.lab.experiments.pipeline import load_images

    if file is not None:
        images = PublicSet.read(file)
    else:
        known, _ = class_counts(config)  # before minutes are spent on images
        if classes != known:
            raise ValueError(
                f"model must have the {known} private classes of {config.private!r}, {model} has "
                f"{classes}; is it an evaluation classifier? Another data set is named by --dataset"
            )
        check_channels(config, shape, model)
        images = PublicSet.of(load_images(config, progress=progress))
    if images.images.shape != shape:
        raise ValueError(
            f"public images must have the shape {shape}, as {model} takes them, got "
            f"{images.images.shape}"
        )
    return images
