# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/lfw.md, made from ``results.json`` alone: ``python -m benchmarks.lfw.table``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bido_ext.lab.atomic import write_text

LABELS = {"none": "no defence", "mid": "MID", "bido-hsic": "BiDO-HSIC", "bido-coco": "BiDO-COCO"}
SYMBOLS = {"lambda_x": "λx", "lambda_y": "λy", "beta": "β"}


def table(document: dict[str, Any]) -> str:
    """The attacked classifiers, one line for each attack."""
    header = (
        "defence", "weights", "epochs", "seed", "natural accuracy", "attack",
        "attack accuracy top-1 [95 %]", "top-5", "KNN distance", "Fréchet distance",
        "target's confidence",
    )  # fmt: skip
    lines = [
        (
            LABELS[row["defence"]],
            _weights(row),
            str(row["epochs"]),
            str(row["seed"]),
            _percent(row["training"]["natural_accuracy"]),
            attack,
            _interval(found),
            _percent(found["attack_accuracy_top5"]),
            f"{found['knn_distance']:.3f}",
            f"{found['frechet_distance']:.3f}",
            f"{found['target_confidence']:.2f}",
        )
        for row in _sorted(document)
        for attack, found in row["attacks"].items()
    ]
    chance = document["chance"]
    unguided = (
        "(unguided images)", "–", "–", "–", "–", "none", _interval(chance),
        _percent(chance["attack_accuracy_top5"]), f"{chance['knn_distance']:.3f}",
        f"{chance['frechet_distance']:.3f}", "–",
    )  # fmt: skip
    return _markdown(header, [*lines, unguided])


def ladder(document: dict[str, Any]) -> str:
    """Accuracy of every trained classifier, attacked or not."""
    header = (
        "defence", "weights", "epochs", "seed", "natural accuracy", "accuracy on training images",
    )  # fmt: skip
    lines = [
        (
            LABELS[row["defence"]],
            _weights(row),
            str(row["epochs"]),
            str(row["seed"]),
            _percent(row["training"]["natural_accuracy"]),
            _percent(row["training"]["train_accuracy"]),
        )
        for row in _sorted(document)
    ]
    return _markdown(header, lines)


def facts(document: dict[str, Any]) -> str:
    """What was run, in numbers."""
    data, judge, prior = document["data"], document["judge"], document["prior"]
    gmi, target = document["gmi"], document["target"]
    lines = [
        f"{data['people']} private people, {data['train']} training and {data['test']} test images;"
        f" {data['public']} public images of other people.",
        f"Judge on the real private test images: top-1 {_percent(judge['top1_on_test'])}, top-5"
        f" {_percent(judge['top5_on_test'])} (n = {judge['test_images']}).",
        f"Classifiers: {target['epochs']} epochs, batches of {target['batch_size']} images"
        f" ({target['per_person']} each of {target['batch_size'] // target['per_person']} people),"
        f" Adam, one-cycle learning rate up to {target['lr']:g}; the last epoch is kept.",
        f"Prior: GAN of width {prior['width']:g}, {prior['steps']} steps of {prior['batch_size']}"
        f" images, {prior['seconds'] / 60:.0f} min on a shared core.",
        f"GMI: {gmi['steps']} steps, learning rate {gmi['lr']:g}, {gmi['restarts']} restarts a"
        f" person = {gmi['restarts'] * data['people']} reconstructions, all kept.",
    ]
    return "\n".join(f"- {line}" for line in lines)


TABLES = {"facts": facts, "attacks": table, "ladder": ladder}


def write_tables(document: dict[str, Any], path: Path) -> None:
    """Replace what stands between the markers of ``path``."""
    text = path.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- lfw:{name} -->\n).*?(<!-- /lfw:{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path} must have the markers lfw:{name}, it has not")
        block = f"{make(document)}\n"
        text = pattern.sub(lambda found, b=block: found[1] + b + found[2], text)  # type: ignore[misc]
    write_text(path, text)


def _sorted(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows by defence, weights and seed, in whatever order they were run."""
    order = list(LABELS)
    return sorted(
        document["rows"],
        key=lambda row: (
            order.index(row["defence"]),
            -row["epochs"],
            tuple(row["weights"].values()),
            row["seed"],
        ),
    )


def _weights(row: dict[str, Any]) -> str:
    return ", ".join(f"{SYMBOLS[key]} {value:g}" for key, value in row["weights"].items()) or "–"


def _interval(found: dict[str, Any]) -> str:
    return (
        f"{_percent(found['attack_accuracy'])} "
        f"[{100 * found['ci_low']:.1f}, {100 * found['ci_high']:.1f}]"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _markdown(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    rule = tuple("---" for _ in header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    results = root / "benchmarks" / "results" / "lfw" / "results.json"
    write_tables(json.loads(results.read_text(encoding="utf-8")), root / "docs" / "lfw.md")
