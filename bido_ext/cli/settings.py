# SPDX-License-Identifier: Apache-2.0
"""Text of the command line that becomes settings: name=value pairs, lists of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def with_settings(config: T, texts: Sequence[str], option: str) -> T:
    """A config dataclass with every "name=value" of ``texts`` set.

    Raises:
        ValueError: If a text is no pair, names no field, or holds a value of another type.
    """
    changes: dict[str, Any] = {}
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or name not in names:
            raise ValueError(
                f"{option} must be name=value with a name of {', '.join(names)}, got {text!r}"
            )
        changes[name] = _converted(getattr(config, name), value, f"{option} {name}")
    return replace(config, **changes)  # type: ignore[type-var]


def with_file(search: T, prior: T, path: Path) -> tuple[T, T]:
    """The settings of an attack and of its prior with those of a TOML file in place of theirs.

    Raises:
        ValueError: No such file, no TOML, another table, an unknown name, or a value of another
            type.
    """
    from bido_ext.lab.experiments.recipes.load import read_toml
    from bido_ext.lab.experiments.recipes.schema import from_table

    tables = read_toml(path, "--settings")
    if strange := sorted(set(tables) - {"attack", "prior"}):
        raise ValueError(
            f"--settings {path} must hold the tables [attack] and [prior] alone, it holds "
            f"{strange[0]!r}; a whole recipe is for bido run"
        )
    changed = []
    for name, config in (("attack", search), ("prior", prior)):
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            raise ValueError(f"--settings {path}: {name} must be a table, got {table!r}")
        if "seed" in table:  # else two seeds would be given
            raise ValueError(f"--settings {path}: {name} has a seed; give it as --seed")
        known = {field.name: getattr(config, field.name) for field in fields(config)}  # type: ignore[arg-type]
        changed.append(from_table(type(config), {**known, **table}, f"--settings {path}: {name}"))
    return changed[0], changed[1]


def _converted(current: Any, text: str, what: str) -> Any:
    """``text`` as the type of ``current``."""
    kind = type(current)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if kind is tuple:
            return tuple(float(part) for part in text.split(","))
    except (ValueError, KeyError):
        pass
    raise ValueError(f"{what} must be a {kind.__name__} like {current!r}, got {text!r}")


def parse_classes(text: str | None, known: int) -> list[int]:
    """Read "0-59,70" as class labels; None is all of the ``known`` classes.

    Raises:
        ValueError: If the text is no such list, or names a class that is not known.
    """
    if text is None:
        return list(range(known))
    labels: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            labels += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        labels = []
    if not labels:
        raise ValueError(f"--classes must be labels and ranges as 0-59,70, got {text!r}")
    if max(labels) >= known:
        raise ValueError(f"--classes: the model has labels 0 to {known - 1}, got {max(labels)}")
    return labels
