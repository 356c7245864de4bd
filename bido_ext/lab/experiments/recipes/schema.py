# SPDX-License-Identifier: Apache-2.0
"""What a recipe holds, and the check of a table against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field

from bido_ext.lab.data import find_dataset
from bido_ext.lab.training.checked import Names, Number, Positive, Several, checked
from bido_ext.lab.training.train_config import TrainConfig

T = TypeVar("T")


@checked
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
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        for name in filter(None, (self.private, self.public)):
            find_dataset(name)


@checked
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
        adaptive: what the attack also runs on in place of the target, each time beside the plain
            attack: "surrogate", "surrogate+target", both or none.
        surrogate: settings of the surrogate.
    """

    name: str
    classes: Number = 0
    generator: str = ""
    truncation: Positive = 1.0
    prior_size: Number = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)
    adaptive: Names = ()
    surrogate: Mapping[str, Any] = field(default_factory=dict)


@checked
class SmokeData:
    """Size of the tiny data sets of a smoke run: private classes, images of each, public images."""

    classes: Several = 4
    images: Several = 10
    public: Several = 24


@checked
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
    required_evaluator_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.9
    differences: Names = ()
    smoke_data: SmokeData = field(default_factory=SmokeData)


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make ``cls``, a checked dataclass whose fields may be such, of a table of a file.

    Args:
        cls: The dataclass.
        table: Keys and values.
        where: What to call the table in errors, as "recipe ffhq: target".

    Raises:
        ValueError: An unknown or missing key, or a value of another type; the key is named.
    """
    arguments = dict(table)
    for field_ in fields(cls):  # type: ignore[arg-type]
        kind, value = get_type_hints(cls)[field_.name], table.get(field_.name)
        if is_dataclass(kind) and field_.name in table:
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {field_.name} must be a table, got {value!r}")
            arguments[field_.name] = from_table(kind, value, f"{where}.{field_.name}")  # type: ignore[arg-type]
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
