# SPDX-License-Identifier: Apache-2.0
"""The compact table: defence by attack, over the seeds of training."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.lfw.networks import TAPS
from benchmarks.lfw.text import LABELS, markdown, mean_and_range, percent, weights
from bido_ext.lab.judging import clustered_interval, wilson_interval

HEADER = (
    "defence", "weights", "attack", "seeds", "natural accuracy", "attack accuracy top-1",
    "95 % over all reconstructions", "of undefended", "KNN distance", "Fréchet distance",
)  # fmt: skip


def summary(document: dict[str, Any]) -> str:
    """Defences that were attacked in several ways or trained from several seeds, and the undefended.

    Accuracies are means over seeds with their range.  "Of undefended" divides the attack accuracy
    by that of the undefended classifiers under the same attack, over the seeds that both have.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in document["rows"]:
        key = (
            row["defence"],
            -row["epochs"],
            tuple(row["weights"].values()),
            len(row.get("taps", TAPS)),
        )
        groups.setdefault(key, []).append(row)
    base = {
        (attack, row["seed"]): found["attack_accuracy"]
        for row in document["rows"]
        if row["defence"] == "none" and row["epochs"] == document["target"]["epochs"]
        for attack, found in row["attacks"].items()
    }
    lines = [
        _line(rows, attack, base)
        for attack in document["attacks"]
        for _, rows in sorted(groups.items(), key=lambda item: _order(item[0]))
        if len(rows) > 1 or len(rows[0]["attacks"]) > 1
        if any(attack in row["attacks"] for row in rows)
    ]
    return markdown(HEADER, lines)


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (list(LABELS).index(key[0]), *key[1:])


def _line(
    rows: list[dict[str, Any]], attack: str, base: dict[tuple[str, int], float]
) -> tuple[str, ...]:
    rows = sorted((row for row in rows if attack in row["attacks"]), key=lambda row: row["seed"])
    found = [row["attacks"][attack] for row in rows]
    trials = sum(one["restarts"] * one["classes"] for one in found)
    low, high = _interval(found, trials)
    accuracies = [one["attack_accuracy"] for one in found]
    return (
        LABELS[rows[0]["defence"]],
        weights(rows[0]),
        attack,
        ", ".join(str(row["seed"]) for row in rows),
        mean_and_range([row["training"]["natural_accuracy"] for row in rows]),
        mean_and_range(accuracies),
        f"{100 * low:.1f} to {100 * high:.1f} (n = {trials})",
        _share(rows, accuracies, attack, base),
        f"{sum(one['knn_distance'] for one in found) / len(found):.3f}",
        f"{sum(one['frechet_distance'] for one in found) / len(found):.3f}",
    )


def _interval(found: list[dict[str, Any]], trials: int) -> tuple[float, float]:
    hits = [hits for one in found for hits in one["hits_per_class"]]
    if (draws := found[0].get("draws", 1)) == 1:
        return wilson_interval(sum(hits), trials)
    if draws != found[0]["restarts"]:
        raise ValueError("hits_per_class tells searches apart only where each class has one")
    return clustered_interval(torch.tensor(hits) / draws, draws)


def _share(
    rows: list[dict[str, Any]],
    accuracies: list[float],
    attack: str,
    base: dict[tuple[str, int], float],
) -> str:
    pairs = [
        (mine, base[attack, row["seed"]])
        for row, mine in zip(rows, accuracies, strict=True)
        if (attack, row["seed"]) in base
    ]
    theirs = sum(undefended for _, undefended in pairs)
    if rows[0]["defence"] == "none" or not theirs:
        return "–"
    return percent(sum(mine for mine, _ in pairs) / theirs)
