# SPDX-License-Identifier: Apache-2.0
"""The attack of a recipe: its settings, its generator, its search; adaptive attackers beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bido_ext.lab.attacks import ATTACKS, find_attack
from bido_ext.lab.attacks.adaptive import KINDS, PRESETS, AdaptiveConfig, check_white_box
from bido_ext.lab.attacks.spec import PriorSpec
from bido_ext.lab.attacks.stylegan2 import load_stylegan2
from bido_ext.lab.experiments.adaptive import FOLDER, adapt
from bido_ext.lab.experiments.attack_settings import settings_for
from bido_ext.lab.experiments.attacking import Attacked, PublicSet, attack_target, train_prior
from bido_ext.lab.experiments.pipeline import Trained
from bido_ext.lab.experiments.presets import find_preset
from bido_ext.lab.experiments.stage import RunOptions

from .inputs import Inputs, size_of
from .schema import Recipe, from_table


@dataclass(frozen=True)
class AttackSettings:
    """Configurations of the attack's search, of its generator's training, of surrogates by kind."""

    search: Any
    prior: Any
    adaptive: Mapping[str, AdaptiveConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackRun:
    """An attack, one line on where its generator came from, and how many images trained it.

    ``config`` is of what it ran on, empty for the target itself.
    """

    attacked: Attacked
    generator: str
    public_images: int
    config: Mapping[str, Any] = field(default_factory=dict)


def attack_settings(
    recipe: Recipe, *, smoke: bool = False, from_scratch: bool = False
) -> AttackSettings:
    """The settings of the recipe.

    Args:
        recipe: The recipe.
        smoke: Those of the preset ``smoke`` instead.
        from_scratch: A GAN is trained in place of the generator that the recipe names.

    Raises:
        ValueError: This release has no such attack, a setting is unknown to it, or an adaptive
            attacker is asked for that there is not, or where the attack is no white-box one.
    """
    name = recipe.attack.name
    if name not in ATTACKS:
        raise ValueError(
            f"recipe {recipe.name} needs the attack {name!r}, this release has {', '.join(ATTACKS)}"
        )
    spec = find_attack(name)
    tables: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
        ("settings", spec.config, recipe.attack.settings),
        ("prior", spec.prior.config, recipe.attack.prior),
    )
    search, prior = (
        from_table(config, table, f"recipe {recipe.name}.attack.{part}")
        for part, config, table in tables
    )
    if from_scratch or not recipe.attack.generator:
        search = replace(search, **spec.file_only)
    if smoke:
        search, prior = settings_for(find_preset("smoke").with_seed(recipe.target.seed), name)
        augment = recipe.attack.prior.get("augment", prior.augment)
        prior = replace(prior, augment=augment)
    return AttackSettings(search, prior, _surrogates(recipe, smoke))


def _surrogates(recipe: Recipe, smoke: bool) -> dict[str, AdaptiveConfig]:
    """Kind of adaptive attacker -> how its surrogate learns."""
    chosen = recipe.attack
    if not chosen.adaptive:
        if chosen.surrogate:
            raise ValueError(
                f"recipe {recipe.name}.attack.surrogate is for adaptive, which is empty"
            )
        return {}
    check_white_box(find_attack(chosen.name))
    if len(set(chosen.adaptive)) < len(chosen.adaptive) or not set(chosen.adaptive) <= set(KINDS):
        raise ValueError(
            f"recipe {recipe.name}.attack: adaptive must be of {', '.join(KINDS)}, each once, got "
            f"{', '.join(chosen.adaptive)}"
        )
    where, seed = f"recipe {recipe.name}.attack.surrogate", {"seed": recipe.target.seed}
    made = {}
    for kind in chosen.adaptive:
        own = from_table(AdaptiveConfig, {**seed, **chosen.surrogate, "kind": kind}, where)
        small = {**asdict(PRESETS["smoke"]), **seed, "kind": kind}
        made[kind] = from_table(AdaptiveConfig, small, where) if smoke else own
    return made


@dataclass(frozen=True)
class AttackFolders:
    """Where the steps of an attack are.

    Attributes:
        out: Folder of the run.
        shared: Of a generator that does not depend on the target.
        target: Of the classifier.
        priors: Of the generators that several attacks use; None: each attack trains its own.
    """

    out: Path
    shared: Path
    target: Path
    priors: Path | None = None

    def prior(self, spec: PriorSpec, config: Any, data: str, budget: int, ending: str) -> Path:
        """Folder of a generator.

        Args:
            spec: What it is.
            config: Of its training.
            data: Digest of the public images.
            budget: Queries of the attack, which its training may spend.
            ending: Of the adaptive attacker; "" for the plain one.
        """
        if self.priors is None:
            return self.out / f"prior{ending}" if spec.of_target else self.shared / "prior"
        name = type(config).__name__.removesuffix("Config").lower()
        settings = json.dumps([data, asdict(config), budget], sort_keys=True)
        folder = self.priors / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:10]}"
        return folder / f"{self.target.name}{ending}" if spec.of_target else folder


def run_attack(
    inputs: Inputs,
    settings: AttackSettings,
    num_classes: int,
    target: Trained,
    folders: AttackFolders,
    options: RunOptions,
    *,
    kind: str = "",
) -> AttackRun:
    """Attack ``target`` with the generator that the recipe names, else with one trained here.

    Args:
        inputs: Where files are.
        settings: From ``attack_settings``.
        num_classes: Private classes.
        target: The attacked classifier.
        folders: Where things are.
        options: How to run.
        kind: Of the adaptive attacker; "" runs on the target itself. Surrogates, a generator that
            belongs to one, and the attack have folders of their own.

    Returns:
        The attack and what it was made with.
    """
    recipe, chosen, out = inputs.recipe, inputs.recipe.attack, folders.out
    side = size_of(recipe.target)
    file = inputs.weights(chosen.generator)
    spec = find_attack(chosen.name)
    defence = (recipe.target.defence, recipe.target.weights)
    generator: Any
    public = None
    if file is None or spec.sees_public:
        public = PublicSet.of(inputs.images(chosen.prior_size or side))
    met, adapted, config, ending = target.model, None, {}, ""
    if kind:
        seen = PublicSet.of(inputs.images(side))  # the target's own size
        own = settings.adaptive[kind]
        made = adapt(chosen.name, own, target.model, seen, out / FOLDER, options)
        met, adapted, config = made.network, (made.network, made.settings), made.settings
        ending = f"-{kind}"
    if file is not None:
        generator, note = load_stylegan2(file, truncation=chosen.truncation), f"from {file.name}"
    else:
        assert public is not None
        budget = getattr(settings.search, "budget", 0)
        folder = folders.prior(spec.prior, settings.prior, public.digest, budget, ending)
        generator, note = train_prior(
            chosen.name, public, settings.prior, folder, options, target=met,
            defence=defence, budget=budget,
        )  # fmt: skip
    classes = range(min(chosen.classes or num_classes, num_classes))
    attacked = attack_target(
        chosen.name, target.model, generator, settings.search, classes, out / f"attack{ending}",
        options, defence=defence, public=public, side=side, adapted=adapted,
    )  # fmt: skip
    return AttackRun(attacked, note, 0 if public is None else len(public.images), config)
