# SPDX-License-Identifier: Apache-2.0
"""Numbers of a configuration must be finite; nan and inf pass many a comparison."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any


def check_finite(config: Any) -> None:
    """Raise ValueError if a float field of a dataclass is nan or infinite; the field is named."""
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, float) and not math.isfinite(part) for part in values):
            raise ValueError(f"{name} must be a finite number, got {value}")
