# SPDX-License-Identifier: Apache-2.0
"""What an arena holds: models, attacks, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from bido_ext.lab.attacks import find_attack
from bido_ext.lab.defences import resolve_weights
from bido_ext.lab.training.checked import Names, checked

#: Of a file: seeds and shares in lists.
Seeds = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(strict=False)]


@checked
class ArenaModel:
    """One attacked classifier.

    Attributes:
        defence: key of ``DEFENCES``, or several with "+" between them.
        weights: of the defence, over its defaults.
        seeds: of its training, each with its own evaluator and attacks; empty: those of the arena.
        training: settings of this model's training alone, such as ``pretrained``.
    """

    defence: str
    weights: Mapping[str, float] = field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(strict=False)] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.defence, self.weights))

    @property
    def name(self) -> str:
        """Of its rows and folders."""
        return "-".join([self.defence, *(f"{value:g}" for value in self.weights.values())])


@checked
class ArenaAttack:
    """One attack.

    Attributes:
        name: key of ``ATTACKS``.
        preset: whose settings it has, see ``bido list presets``.
        settings, prior: of the search and of its generator's training, over those of the preset.
    """

    name: str
    preset: str = "quick"
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find_attack(self.name)


@checked
class Arena:
    """Models and the attacks on them.

    Attributes:
        name: of the file.
        title: one line.
        recipe: the recipe whose data, training and evaluator hold; its attack does not.
        models: the attacked classifiers.
        attacks: the attacks.
        seeds: of models that name none.
        controls: shares of its training after which the undefended model is stopped and attacked
            too; what a defence is compared with at equal natural accuracy.
        notes: what a reader has to know, one sentence each.
    """

    name: str
    title: str
    recipe: str
    models: Annotated[tuple[ArenaModel, ...], Field(min_length=1)]
    attacks: Annotated[tuple[ArenaAttack, ...], Field(min_length=1)]
    seeds: Seeds = (0,)
    controls: Shares = ()
    notes: Names = ()

    def __post_init__(self) -> None:
        for what, names in (
            ("models", [model.name for model in self.models]),
            ("attacks", [attack.name for attack in self.attacks]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must come once each, got {', '.join(names)}")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed of a model, in order."""
        return tuple(sorted({seed for model in self.models for seed in self.seeds_of(model)}))

    def seeds_of(self, model: ArenaModel) -> tuple[int, ...]:
        """Of one model."""
        return model.seeds or self.seeds
