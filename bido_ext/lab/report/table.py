# SPDX-License-Identifier: Apache-2.0
"""The result table as text."""

from __future__ import annotations

from bido_ext.lab.judging import AttackMetrics
from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.results import Results

HEADER = (
    "defence",
    "weights",
    "natural accuracy",
    "attack accuracy +- std over restarts [95% CI]",
    "KNN dist",
    "feature dist",
    "Frechet",
)


def attack_text(attack: AttackMetrics, plus_minus: str = "+-") -> str:
    """Attack accuracy in percent with its spread and interval."""
    spread = attack.std_over_restarts
    return (
        f"{100 * attack.attack_accuracy:.1f}% {plus_minus} "
        + ("n/a" if spread is None else f"{100 * spread:.1f}")
        + f" [{100 * attack.ci_low:.1f}, {100 * attack.ci_high:.1f}]"
    )


def text_table(results: Results) -> str:
    """The table of a run, one line for each attacked model."""
    lines = [
        (
            row.label,
            row.weights_text,
            f"{100 * row.natural_accuracy:.2f}%",
            attack_text(row.attack),
            f"{row.attack.knn_distance:.4g}",
            f"{row.attack.feature_distance:.4g}",
            f"{row.attack.frechet_distance:.4g}",
        )
        for row in results.rows
    ]
    return grid(HEADER, lines)


def second_judge_text(results: Results) -> str:
    """Both judges' attack accuracies, row by row; empty where there is one judge."""
    lines = []
    for row in results.rows:
        if row.second is None:
            continue
        opinion = row.second.opinion
        lines.append(
            (
                row.label,
                row.weights_text,
                f"{100 * row.attack.attack_accuracy:.1f}%",
                f"{100 * opinion.attack_accuracy:.1f}%",
                f"{100 * opinion.disagreement:.1f}%",
                "n/a" if opinion.kappa is None else f"{opinion.kappa:.2f}",
            )
        )
    judges = {(row.second.arch, row.second.test_accuracy) for row in results.rows if row.second}
    if not lines:
        return ""
    header = ("defence", "weights", "attack by the judge", "by the second", "disagree on", "kappa")
    told = ", ".join(f"{arch}, {100 * share:.2f}% on its test set" for arch, share in judges)
    return f"Second judge: {told}\n{grid(header, lines)}"
