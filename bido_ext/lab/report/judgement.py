# SPDX-License-Identifier: Apache-2.0
"""What ``bido evaluate`` prints of one judged attack."""

from __future__ import annotations

from pathlib import Path

from bido_ext.lab.judging import AttackMetrics, SecondOpinion
from bido_ext.lab.judging.prdc import NEIGHBOURS
from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.table import attack_text

SHOWN_CLASSES = 60


def judgement_text(
    metrics: AttackMetrics, evaluator_accuracy: float, required: float, picture: Path | None
) -> str:
    """Precondition, metrics and the table of the classes, in plain text."""
    met = "met" if evaluator_accuracy >= required else "NOT MET, the numbers below mean little"
    restarts, spread = metrics.restarts // metrics.draws, metrics.top5_std_over_restarts
    lines = [
        f"evaluator      {100 * evaluator_accuracy:.2f}% on its test set (required "
        f"{100 * required:.1f}%: {met})",
        f"attack top-1   {attack_text(metrics)} (+- std over {restarts} restarts [95% CI])",
        f"               this interval: {metrics.ci_method}",
    ]
    if metrics.identity_ci_low is not None and metrics.identity_ci_high is not None:
        lines.append(
            f"               other interval [{100 * metrics.identity_ci_low:.1f}, "
            f"{100 * metrics.identity_ci_high:.1f}]: {metrics.identity_ci_method}"
        )
    lines += [
        f"attack top-5   {100 * metrics.attack_accuracy_top5:.1f}% +- "
        + ("n/a" if spread is None else f"{100 * spread:.1f}"),
        f"KNN dist       {metrics.knn_distance:.4g}",
        f"feature dist   {metrics.feature_distance:.4g}",
        f"Frechet        {metrics.frechet_distance:.4g} ({metrics.frechet_reconstructions} "
        f"reconstructions, {metrics.frechet_private} private images, "
        f"{metrics.frechet_features} features of the evaluator)",
    ]
    if metrics.frechet_inception is not None:
        lines.append(f"Inception FID  {metrics.frechet_inception:.4g} (the same images)")
    if metrics.lpips is not None:
        lines.append(f"LPIPS          {metrics.lpips:.4f} (to the nearest private image)")
    if metrics.precision is not None:
        names = ("precision", "recall", "density", "coverage")
        told = ", ".join(f"{name} {getattr(metrics, name):.3f}" for name in names)
        lines.append(f"PRDC           {told} (k = {NEIGHBOURS}, within each class)")
    if picture is not None:
        lines.append(f"picture        {picture}")
    return "\n".join([*lines, "", _by_class(metrics)])


def second_text(metrics: AttackMetrics, second: SecondOpinion, arch: str, accuracy: float) -> str:
    """The second judge's accuracy, and where the two do not agree."""
    interval = (
        ""
        if second.identity_ci_low is None or second.identity_ci_high is None
        else f" [{100 * second.identity_ci_low:.1f}, {100 * second.identity_ci_high:.1f}]"
    )
    kappa = "n/a" if second.kappa is None else f"{second.kappa:.2f}"
    return "\n".join(
        [
            f"second judge   {100 * second.attack_accuracy:.1f}%{interval} ({arch}, "
            f"{100 * accuracy:.2f}% on its test set), the first "
            f"{100 * metrics.attack_accuracy:.1f}%",
            f"               they disagree on {100 * second.disagreement:.1f}% of the "
            f"reconstructions: {100 * second.only_first:.1f}% are hits for the first alone, "
            f"{100 * second.only_second:.1f}% for the second alone (kappa {kappa})",
        ]
    )


def _by_class(metrics: AttackMetrics) -> str:
    rows = [
        (
            str(row.label),
            f"{100 * row.attack_accuracy:.1f}%",
            f"{100 * row.attack_accuracy_top5:.1f}%",
            f"{row.knn_distance:.4g}",
            f"{row.feature_distance:.4g}",
        )
        for row in metrics.per_class[:SHOWN_CLASSES]
    ]
    table = grid(("class", "top-1", "top-5", "KNN dist", "feature dist"), rows)
    hidden = len(metrics.per_class) - len(rows)
    return table if not hidden else f"{table}\n({hidden} more classes: --json)"
