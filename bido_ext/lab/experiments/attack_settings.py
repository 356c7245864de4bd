# SPDX-License-Identifier: Apache-2.0
"""What a preset means for each attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bido_ext.lab.attacks import find_attack
from bido_ext.lab.experiments.presets import DEMO_ATTACK, DemoPreset


def settings_for(preset: DemoPreset, attack: str) -> tuple[Any, Any]:
    """(settings of the attack, settings of its prior), with the preset's seed.

    Raises:
        ValueError: If there is no such attack.
    """
    spec = find_attack(attack)
    if spec is DEMO_ATTACK:
        return preset.attack, preset.prior
    seed = preset.attack.seed
    search, prior = spec.settings(preset.name), spec.prior.settings(preset.name)
    return replace(search, seed=seed), replace(prior, seed=seed)
