# SPDX-License-Identifier: Apache-2.0
"""RoLSS: a residual network without the skip connections of its last stages (Koh et al., ECCV 2024).

``factor`` multiplies what a skip carries: 0 removes it.  The softer form of the paper (SSF, a
factor for the skips) is ``rolss-ssf``; its 0.2 is the one that the code of AT-AT runs,
github.com/BreuerLabs/Anti-Adversarial-Training.
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


SPECS = (
    DefenceSpec(
        "rolss",
        {"stages": 1.0, "factor": 0.0},
        "RoLSS: no skip connections in the last stages (Koh et al., ECCV 2024)",
        "RoLSS",
        arch_options=_options,
        per_image=True,
    ),
    DefenceSpec(
        "rolss-ssf",
        {"stages": 1.0, "factor": 0.2},
        "RoLSS, softer: skips of the last stages are multiplied by a factor (Koh et al., ECCV 2024)",
        "RoLSS, scaled skips",
        arch_options=_options,
        per_image=True,
    ),
)
