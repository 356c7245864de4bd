# SPDX-License-Identifier: Apache-2.0
"""What a run of a recipe found, beside what was published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bido_ext.lab.judging import AttackMetrics, SecondJudge
from bido_ext.lab.report import AdaptiveAttack
from bido_ext.lab.report.table import attack_text


@dataclass(frozen=True)
class RecipeResult:
    """Numbers of one run.

    Attributes:
        recipe, title, published, differences: of the recipe.
        smoke: a smoke run, whose numbers mean nothing.
        seed: that started every random stream.
        natural_accuracy: of the attacked classifier on private test images, in [0, 1].
        evaluator_accuracy, required_evaluator_accuracy: of the evaluation classifier.
        attack: name of the attack.
        metrics: how the attack fared.
        val_accuracy: of the attacked classifier on the split that selected its epoch.
        target_confidence: mean probability it gives its own reconstructions.
        config: everything that was configured.
        machine, versions: where it ran.
        seconds: computing time of the steps.
        second: what a second evaluation classifier says; None if there is none.
        adaptive: the same attack by adaptive attackers; its picture lies in the folder of the run.
    """

    recipe: str
    title: str
    published: str
    differences: tuple[str, ...]
    smoke: bool
    seed: int
    natural_accuracy: float
    evaluator_accuracy: float
    required_evaluator_accuracy: float
    attack: str
    metrics: AttackMetrics
    val_accuracy: float
    target_confidence: float
    config: dict[str, Any]
    machine: dict[str, str]
    versions: dict[str, str]
    seconds: dict[str, float]
    second: SecondJudge | None = None
    adaptive: tuple[AdaptiveAttack, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def text_summary(result: RecipeResult) -> str:
    """A few lines for the terminal."""
    is_met = result.evaluator_accuracy >= result.required_evaluator_accuracy
    met = "met" if is_met else "NOT MET, the attack's numbers mean little"
    lines = [
        f"{result.title}",
        f"natural accuracy  {100 * result.natural_accuracy:.2f}%",
        f"attack accuracy   {attack_text(result.metrics)} ({result.attack}, "
        f"{len(result.metrics.classes)} classes x {result.metrics.restarts})",
        *(
            f"on {one.kind:<14} {attack_text(one.attack)} (adaptive attacker)"
            for one in result.adaptive
        ),
        f"attack top-5      {100 * result.metrics.attack_accuracy_top5:.1f}%",
        f"KNN distance      {result.metrics.knn_distance:.4g}",
        f"evaluator         {100 * result.evaluator_accuracy:.2f}% (required "
        f"{100 * result.required_evaluator_accuracy:.1f}%: {met})",
        f"published         {result.published}",
        *(f"differs           {difference}" for difference in result.differences),
    ]
    if result.smoke:
        lines.append("smoke run: tiny made-up data and networks, the numbers mean nothing")
    return "\n".join(lines)
