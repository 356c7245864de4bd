# SPDX-License-Identifier: Apache-2.0
"""What a recipe holds, and the check of a table against it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from bido_ext.lab.data import find_dataset
from bido_ext.lab.training.train_config import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RecipeData:
    """Which images.

    Attributes:
        private, public: keys of ``DATASETS``; public empty: the private data set's own.
        crop, public_crop: side of the square cut from the middle of each file; -1: the data set's.
        val_fraction: share of each class's training images that selects the model.
    """

    private: str
    public: str = ""
    crop: int = -1
    public_crop: int = -1
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        for name in filter(None, (self.private, self.public)):
            find_dataset(name)


@dataclass(frozen=True)
class RecipeAttack:
    """Which attack.

    Attributes:
        name: key of ``ATTACKS``; a recipe may name one that a later release brings.
        classes: how many private classes are attacked, from label 0 on; 0: all.
        generator: file of StyleGAN2 weights in ``weights``; empty: a GAN is trained.
        truncation: psi of that generator.
        prior_size: side of the images of a GAN that is trained; 0: the target's.
        settings: of the attack's configuration.
        prior: of the configuration of its generator's training.
    """

    name: str
    classes: int = 0
    generator: str = ""
    truncation: float = 1.0
    prior_size: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes < 0:
            raise ValueError(f"classes must be at least 0, got {self.classes}")


@dataclass(frozen=True)
class SmokeData:
    """Size of the tiny data sets of a smoke run: private classes, images of each, public images."""

    classes: int = 4
    images: int = 10
    public: int = 24


@dataclass(frozen=True)
class Recipe:
    """One published row.

    Attributes:
        name: of the file.
        title: one line.
        published: what was published for it, and what kind of number that is.
        differences: what differs from the published run, one sentence each.
        data: the images.
        target: training of the attacked classifier.
        evaluator: training of the evaluation classifier.
        required_evaluator_accuracy: what it must reach (0..1) for attack accuracies to mean much.
        attack: the attack.
        smoke_data: of a smoke run.
    """

    name: str
    title: str
    published: str
    data: RecipeData
    target: TrainConfig
    evaluator: TrainConfig
    attack: RecipeAttack
    required_evaluator_accuracy: float = 0.9
    differences: tuple[str, ...] = ()
    smoke_data: SmokeData = field(default_factory=SmokeData)


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make ``cls`` (a dataclass, its fields may be dataclasses) of a table of a file.

    Args:
        cls: The dataclass.
        table: Keys and values.
        where: What to call the table in errors, as "recipe ffhq: target".

    Raises:
        ValueError: An unknown or missing key, or a value of another type; the key is named.
    """
    known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
        kind = hints[key]
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key} must be a table, got {value!r}")
            arguments[key] = from_table(kind, value, f"{where}.{key}")  # type: ignore[arg-type]
        else:
            arguments[key] = _checked(kind, value, f"{where}: {key}")
    for key, entry in known.items():
        if key not in arguments and entry.default is entry.default_factory is MISSING:
            raise ValueError(f"{where}: the key {key!r} is missing")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _checked(kind: Any, value: Any, what: str) -> Any:
    """``value``, if it is of the plain type ``kind``; lists become tuples, ints floats."""
    if isinstance(value, list):
        value = tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = kind if isinstance(kind, type) else getattr(kind, "__origin__", object)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ValueError(f"{what} must be of type {wanted.__name__}, got {value!r}")
    return value
