# SPDX-License-Identifier: Apache-2.0
"""Settings are what their annotations say, or are refused in one sentence that names the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from bido_ext.lab.attacks.registry import ATTACKS
from bido_ext.lab.training.checked import (
    Count,
    Names,
    Part,
    Positive,
    Share,
    Weight,
    checked,
)  # fmt: skip
from bido_ext.lab.training.train_config import TrainConfig


@checked
class Base:
    steps: Count
    lr: Positive = 0.1


@checked
class Settings(Base):
    steps: Count = 5
    momentum: Share = 0.9
    decay: Weight = 0.0
    part: Part = 1.0
    names: Names = ()
    loud: bool = False

    def __post_init__(self) -> None:
        if self.loud and not self.names:
            raise ValueError("names must be given with loud")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "5"}, "steps must be of type int, got '5'"),
        ({"steps": 2.5}, "steps must be of type int, got 2.5"),
        ({"steps": True}, "steps must be of type int, got True"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"lr": float("inf")}, "lr must be a finite number, got inf"),
        ({"lr": None}, "lr must be of type float, got None"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"momentum": -0.5}, "momentum must be at least 0, got -0.5"),
        ({"part": 1.5}, "part must be at most 1, got 1.5"),
        ({"names": ["a", 3]}, r"names\[1\] must be of type string, got 3"),
        ({"names": "ab"}, "names must be of type tuple, got 'ab'"),
        ({"loud": 1}, "loud must be of type bool, got 1"),
        ({"loud": True}, "^names must be given with loud$"),
        ({"step": 3}, "unknown key 'step'; did you mean 'steps'"),
        ({"zzz": 3}, "unknown key 'zzz'; known: steps, lr"),
        (
            {"steps": 0, "lr": -1.0},
            "steps must be at least 1, got 0; lr must be positive, got -1.0",
        ),
    ],
)
def test_what_is_not_allowed_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**values)
    if "step" not in words.split()[-1] and "unknown" not in words:
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(Settings(), **values)


def test_a_missing_key_and_one_by_its_place() -> None:
    with pytest.raises(ValueError, match="the key 'steps' is missing"):
        Base()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="lr must be positive, got -1"):
        Base(3, -1)


def test_it_is_a_frozen_dataclass() -> None:
    settings = Settings(lr=1, names=["a"])  # type: ignore[arg-type]
    assert settings.lr == 1.0
    assert settings.names == ("a",)
    assert dataclasses.asdict(settings)["names"] == ("a",)
    assert settings == Settings(lr=1.0, names=("a",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 2.0  # type: ignore[misc]


CONFIGS: list[Callable[..., Any]] = [
    TrainConfig,
    *[spec.config for spec in ATTACKS.values()],
    *{spec.prior.config for spec in ATTACKS.values()},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_all_settings_of_the_lab_are_checked(config: Any) -> None:
    for field in dataclasses.fields(config):
        with pytest.raises(ValueError, match=f"{field.name}.* must be "):
            config(**{field.name: object()})
