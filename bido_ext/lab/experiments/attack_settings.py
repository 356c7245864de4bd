# SPDX-License-Identifier: Apache-2.0
"""What a preset means for each attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bido_ext.lab.attacks import (
    BrepConfig,
    GanConfig,
    KedConfig,
    KedGanConfig,
    PpaConfig,
    VmiConfig,
    find_attack,
)
from bido_ext.lab.experiments.presets import DemoPreset

_SMOKE_GAN = GanConfig(steps=6, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1)
_QUICK_GAN = GanConfig(steps=1400, width=0.25, critic_width=0.25)
# Presets without an entry here take the published settings, the defaults of the classes.
_SETTINGS: dict[tuple[str, str], tuple[Any, Any]] = {
    ("quick", "ppa"): (
        PpaConfig(candidates=1000, kept=20, selected=10, lr=0.05, transforms=20, batch_size=100),
        _QUICK_GAN,
    ),
    ("smoke", "ppa"): (
        PpaConfig(candidates=12, kept=4, selected=3, steps=3, transforms=2),
        _SMOKE_GAN,
    ),
    ("quick", "vmi"): (
        VmiConfig(steps=300, lr=1e-2, samples=20, couplings=4, batch_size=8),
        _QUICK_GAN,
    ),
    ("smoke", "vmi"): (
        VmiConfig(steps=3, draws=4, samples=3, couplings=2, hidden=8),
        _SMOKE_GAN,
    ),
    ("quick", "brep"): (
        BrepConfig(steps=400, restarts=4, candidates=64, patience=60, radius=1.0, clip=1.2),
        _QUICK_GAN,
    ),
    ("smoke", "brep"): (
        BrepConfig(steps=3, candidates=8, points=4),
        _SMOKE_GAN,
    ),
    ("quick", "ked"): (
        KedConfig(steps=300, restarts=4),
        KedGanConfig(steps=1400, width=0.25, critic_width=0.25),
    ),
    ("smoke", "ked"): (
        KedConfig(steps=6, samples=3),
        KedGanConfig(steps=6, batch_size=16, critic_steps=1, width=0.1, critic_width=0.1),
    ),
}


def settings_for(preset: DemoPreset, attack: str) -> tuple[Any, Any]:
    """(settings of the attack, settings of its prior), with the preset's seed.

    Raises:
        ValueError: If there is no such attack.
    """
    spec = find_attack(attack)
    if attack == "gmi":
        return preset.attack, preset.prior
    found = _SETTINGS.get((preset.name, attack))
    search, prior = found if found is not None else (spec.config(), spec.prior_config())
    seed = preset.attack.seed
    return replace(search, seed=seed), replace(prior, seed=seed)
