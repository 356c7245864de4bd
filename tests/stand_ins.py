# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for slow parts: an evaluator that reads the label off the image, a finished run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bido_ext.lab.judging import AttackMetrics, ClassMetrics, wilson_interval
from bido_ext.lab.report import EvaluatorResult, Results, Row


class LabelReader(nn.Module):
    """Labels an image by its first pixel, ``label / 10``; its features are the 16 pixels."""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 10).round().long()
        return nn.functional.one_hot(label, 10).float() - 0.01 * torch.arange(10)


def images_of(labels: Tensor) -> Tensor:
    """One random 1 x 4 x 4 image a label, which ``LabelReader`` labels so."""
    images = torch.rand(*labels.shape, 1, 4, 4)
    images[..., 0, 0, 0] = labels / 10
    return images


def attack_metrics(accuracy: float, trials: int = 100) -> AttackMetrics:
    """Metrics of an attack on five classes with the given accuracy."""
    low, high = wilson_interval(round(accuracy * trials), trials)
    return AttackMetrics(
        attack_accuracy=accuracy,
        std_over_restarts=0.15,
        ci_low=low,
        ci_high=high,
        ci_method="test",
        attack_accuracy_top5=min(1.0, accuracy + 0.1),
        top5_std_over_restarts=0.1,
        knn_distance=10.0,
        feature_distance=20.0,
        frechet_distance=30.0,
        frechet_reconstructions=trials,
        frechet_private=1000,
        frechet_features=512,
        restarts=trials // 5,
        classes=(0, 1, 2, 3, 4),
        per_class=tuple(ClassMetrics(label, accuracy, 1.0, 10.0, 20.0) for label in range(5)),
    )


def a_row(
    defence: str, accuracy: float, attack_accuracy: float, weights: dict[str, float] | None = None
) -> Row:
    """One attacked model."""
    weights = weights or {}
    name = "-".join([defence, *map(str, weights.values())])
    return Row(
        name=name,
        defence=defence,
        label=f"label of {defence}",
        weights=weights,
        natural_accuracy=accuracy,
        val_accuracy=accuracy,
        attack=attack_metrics(attack_accuracy),
        target_confidence=0.9,
        picture=f"{name}.png",
        seconds={"training": 1.0, "attack": 2.0},
        config={"epochs": 1},
        commands=(f"bido train --out {name}",),
    )


def some_results(
    *rows: Row, evaluator_accuracy: float = 0.99, folder: Path | None = None
) -> Results:
    """A finished run with these rows; their pictures are written into ``folder``."""
    for row in rows if folder else ():
        from PIL import Image

        Image.new("RGB", (4, 4)).save(folder / row.picture)
    return Results(
        created="2000-01-01T00:00:00+00:00",
        command="bido demo --preset smoke",
        preset="smoke",
        seed=0,
        seconds=61.0,
        machine={"cores": "2"},
        versions={"torch": "0"},
        task={
            "name": "MNIST",
            "private_test": 1,
            "private_val": 1,
            "chance_attack_accuracy": 0.2,
            "chance_note": "one in five",
            "notes": ["a note <on the protocol>"],
        },
        config={"attack": {"restarts": 20}},
        evaluator=EvaluatorResult("scnn", evaluator_accuracy, 0.98, 5.0),
        rows=rows,
    )
