# SPDX-License-Identifier: Apache-2.0
"""The presets of ``bido demo``: what is trained, attacked and swept, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bido_ext.lab.attacks import DEFAULT as DEMO_ATTACK
from bido_ext.lab.training.train import TrainConfig


@dataclass(frozen=True)
class DemoPreset:
    """Everything a demo run depends on, apart from its seed.

    Attributes:
        name: As given to ``--preset``.
        description: One line.
        data: "mnist", or "synthetic" (drawn digits, nothing to fetch).
        evaluator: Training of the evaluation classifier.
        required_evaluator_accuracy: What it must reach (0..1) for attack accuracies to mean much.
        target: Training of the attacked models, the same for each defence but for the defence.
        prior: Training of the generator of ``DEMO_ATTACK``.
        attack: Settings of that attack.
        sweep: (defence, weights) of each attacked model, in the order of the report.
        notes: How this differs from the published protocol; printed in the report.
    """

    name: str
    description: str
    data: Literal["mnist", "synthetic"]
    evaluator: TrainConfig
    required_evaluator_accuracy: float
    target: TrainConfig
    prior: Any
    attack: Any
    sweep: tuple[tuple[str, Mapping[str, float]], ...]
    notes: tuple[str, ...]

    def with_seed(self, seed: int) -> DemoPreset:
        """The same with every random stream started from ``seed``."""
        return replace(
            self,
            evaluator=replace(self.evaluator, seed=seed),
            target=replace(self.target, seed=seed),
            prior=replace(self.prior, seed=seed),
            attack=replace(self.attack, seed=seed),
        )

    def target_for(self, defence: str, weights: Mapping[str, float]) -> TrainConfig:
        """Training of the model with one defence."""
        return replace(self.target, defence=defence, weights=weights)


def _bido(lambda_x: float, lambda_y: float) -> dict[str, float]:
    return {"lambda_x": lambda_x, "lambda_y": lambda_y}


_PUBLIC_DIGITS_NOTE = (
    "The attacker's public digits 5-9 are turned, mirrored, sheared and scaled. Used as they are, "
    "as in the published code, the attack stays near chance even on an undefended model."
)
_ONE_TRAINING_NOTE = (
    "Every model is trained alike but for its defence (the published code trains the undefended "
    "and the MID model with SGD), so rows differ by their defence and by chance alone."
)
_COCO_NOTE = (
    "COCO is the largest singular value, as Gretton defines it; the published code takes the "
    "Frobenius norm, which is at least as large."
)

PRESETS: dict[str, DemoPreset] = {
    preset.name: preset
    for preset in (
        DemoPreset(
            name="quick",
            description="MNIST, short training and a real attack; minutes on two CPU cores",
            data="mnist",
            evaluator=TrainConfig(
                arch="scnn", epochs=2, batch_size=128, lr=2e-3, schedule="cosine"
            ),
            required_evaluator_accuracy=0.98,
            target=TrainConfig(arch="mcnn", epochs=1, batch_size=64, lr=2e-3, schedule="cosine"),
            prior=DEMO_ATTACK.prior.settings("quick"),
            attack=DEMO_ATTACK.settings("quick"),
            sweep=(
                ("none", {}),
                ("mid", {"beta": 0.1}),
                ("bido-hsic", _bido(0.05, 0.5)),
                ("bido-hsic", _bido(0.4, 1)),
                ("bido-hsic", _bido(1, 1)),
                ("bido-coco", _bido(1, 50)),
                ("bido-coco", _bido(2000, 50)),
                ("bido-coco", _bido(20000, 50)),
                ("bido-coco", _bido(50000, 50)),
            ),
            notes=(
                "Preset quick: fewer epochs, a narrower generator with fewer steps, fewer restarts "
                "and attack steps than the published protocol (bido demo --preset paper).",
                "The weights of the sweep come from trial runs on the same data with the same "
                "attack, to show each defence from the published weights to a visible cost.",
                _PUBLIC_DIGITS_NOTE,
                _ONE_TRAINING_NOTE,
            ),
        ),
        DemoPreset(
            name="paper",
            description="MNIST column of the BiDO protocol in full; many hours on a CPU",
            data="mnist",
            evaluator=TrainConfig(
                arch="scnn", epochs=30, batch_size=64, lr=1e-2, optimizer="sgd", momentum=0.5
            ),
            required_evaluator_accuracy=0.99,
            target=TrainConfig(arch="mcnn", epochs=20, batch_size=64, lr=1e-3, optimizer="adam"),
            prior=DEMO_ATTACK.prior.settings("paper"),
            attack=DEMO_ATTACK.settings("paper"),
            sweep=(
                ("none", {}),
                ("mid", {"beta": 0.1}),
                ("mid", {"beta": 0.2}),
                ("unilateral", {"lambda_x": 1}),
                ("unilateral", {"lambda_x": 5}),
                ("bido-hsic", _bido(0.05, 0.5)),
                ("bido-hsic", _bido(0.05, 1)),
                ("bido-hsic", _bido(0.05, 2.5)),
                ("bido-hsic", _bido(0.1, 1)),
                ("bido-hsic", _bido(0.1, 2)),
                ("bido-coco", _bido(1, 50)),
                ("bido-coco", _bido(2, 20)),
            ),
            notes=(
                "Adam runs with a learning rate of 1e-3. The released code takes 0.1 on MNIST, "
                "which lowers the attack by itself, without any defence.",
                "The generator's learning rate is 2e-4, as for the other data sets of the paper; "
                "the published MNIST configuration says 4e-3.",
                _PUBLIC_DIGITS_NOTE,
                _ONE_TRAINING_NOTE,
                "The epoch is selected on a validation split; the published code selects it on "
                "the test set.",
                _COCO_NOTE,
            ),
        ),
        DemoPreset(
            name="smoke",
            description="synthetic digits, seconds: checks the path, says nothing about defences",
            data="synthetic",
            evaluator=TrainConfig(arch="scnn", epochs=2, batch_size=32, lr=2e-3),
            required_evaluator_accuracy=0.5,
            target=TrainConfig(epochs=1, batch_size=32),
            prior=DEMO_ATTACK.prior.settings("smoke"),
            attack=DEMO_ATTACK.settings("smoke"),
            sweep=(
                ("none", {}),
                ("mid", {"beta": 0.1}),
                ("unilateral", {"lambda_x": 1}),
                ("bido-hsic", _bido(0.05, 0.5)),
                ("bido-hsic", _bido(0.1, 1)),
                ("bido-coco", _bido(1, 50)),
            ),
            notes=("Preset smoke: synthetic digits and a few steps. The numbers mean nothing.",),
        ),
    )
}


def find_preset(name: str) -> DemoPreset:
    """Look up a preset.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
