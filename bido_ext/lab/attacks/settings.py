# SPDX-License-Identifier: Apache-2.0
"""Checks that the configurations of the attacks share; each error names the field."""

from typing import Any


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
