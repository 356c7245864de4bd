# SPDX-License-Identifier: Apache-2.0
"""RoLSS: a residual network without the skip connections of its last stages (Koh et al., ECCV 2024).

``factor`` multiplies what a skip carries: 0 removes it, 0.2 is the softer published form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rule import DefenceSpec


def _options(weights: Mapping[str, float]) -> dict[str, Any]:
    stages = weights["stages"]
    if stages != int(stages) or stages < 1:
        raise ValueError(f"stages must be a whole number of at least 1, got {stages:g}")
    return {"skip_stages": int(stages), "skip_factor": weights["factor"]}


SPEC = DefenceSpec(
    "rolss",
    {"stages": 1.0, "factor": 0.0},
    "RoLSS: no skip connections in the last stages (Koh et al., ECCV 2024)",
    "RoLSS",
    arch_options=_options,
)
