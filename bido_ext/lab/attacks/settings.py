# SPDX-License-Identifier: Apache-2.0
"""What the settings of every search have, and their checks; each error names the field."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bido_ext.lab.training.finite import check_finite


@dataclass(frozen=True)
class SearchConfig:
    """Settings of any search.

    Attributes:
        steps: of the search of each row.
        seed: starts every random stream.
        batch_size: rows searched side by side.
        checkpoint_every: steps between checkpoints.

    A subclass may have ``restarts``, independent searches of a class, and ``samples``, images of
    one search.
    """

    steps: int
    seed: int = 0
    batch_size: int = 64
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_finite(self)
        counts = ("steps", "restarts", "samples", "batch_size", "checkpoint_every")
        check_at_least(self, 1, *(name for name in counts if hasattr(self, name)))


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Raise ValueError if a field is below ``least`` or not a number."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")


def check_positive(config: Any, *names: str) -> None:
    """Raise ValueError if a field is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def check_share(config: Any, *names: str) -> None:
    """Raise ValueError if a field, a momentum or the like, is not in [0, 1)."""
    for name in names:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}")


def check_one_of(config: Any, name: str, known: Iterable[str]) -> None:
    """Raise ValueError if a field is none of ``known``."""
    if getattr(config, name) not in (names := list(known)):
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {getattr(config, name)!r}")
