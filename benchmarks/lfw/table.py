# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/lfw.md, made from ``results.json`` alone: ``python -m benchmarks.lfw.table``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.lfw.summary import summary
from benchmarks.lfw.text import LABELS, interval, markdown, percent, weights
from benchmarks.wrapped import wrapped
from bido_ext.lab.data.atomic import write_text


def table(document: dict[str, Any]) -> str:
    """The attacked classifiers, one line for each attack."""
    header = (
        "defence", "weights", "epochs", "seed", "natural accuracy", "attack",
        "attack accuracy top-1 [95 %]", "top-5", "KNN distance", "Fréchet distance",
        "target's confidence", "written",
    )  # fmt: skip
    lines = [
        (
            LABELS[row["defence"]],
            weights(row),
            str(row["epochs"]),
            str(row["seed"]),
            percent(row["training"]["natural_accuracy"]),
            attack,
            interval(found),
            percent(found["attack_accuracy_top5"]),
            f"{found['knn_distance']:.3f}",
            f"{found['frechet_distance']:.3f}",
            f"{found['target_confidence']:.2f}",
            row["written"][11:16],
        )
        for row in _sorted(document)
        for attack, found in row["attacks"].items()
    ]
    chance = document["chance"]
    unguided = (
        "(unguided images)", "–", "–", "–", "–", "none", interval(chance),
        percent(chance["attack_accuracy_top5"]), f"{chance['knn_distance']:.3f}",
        f"{chance['frechet_distance']:.3f}", "–", document["written"][11:16],
    )  # fmt: skip
    return markdown(header, [*lines, unguided])


def ladder(document: dict[str, Any]) -> str:
    """Accuracy of every trained classifier, attacked or not."""
    header = (
        "defence", "weights", "epochs", "seed", "natural accuracy", "accuracy on training images",
    )  # fmt: skip
    lines = [
        (
            LABELS[row["defence"]],
            weights(row),
            str(row["epochs"]),
            str(row["seed"]),
            percent(row["training"]["natural_accuracy"]),
            percent(row["training"]["train_accuracy"]),
        )
        for row in _sorted(document)
    ]
    return markdown(header, lines)


def facts(document: dict[str, Any]) -> str:
    """What was run, in numbers."""
    data, judge, prior = document["data"], document["judge"], document["prior"]
    target = document["target"]
    attacks = {name: ATTACKS[name](found) for name, found in document["attacks"].items()}
    lines = [
        f"{data['people']} private people, {data['train']} training and {data['test']} test images;"
        f" {data['public']} public images of other people.",
        f"Judge on the real private test images: top-1 {percent(judge['top1_on_test'])}, top-5"
        f" {percent(judge['top5_on_test'])} (n = {judge['test_images']}).",
        f"Classifiers: {target['epochs']} epochs, batches of {target['batch_size']} images"
        f" ({target['per_person']} each of {target['batch_size'] // target['per_person']} people),"
        f" Adam, one-cycle learning rate up to {target['lr']:g}; the last epoch is kept.",
        f"Prior: GAN of width {prior['width']:g}, {prior['steps']} steps of {prior['batch_size']}"
        " images.",
        *attacks.values(),
    ]
    return "\n".join(wrapped(line, "- ") for line in lines)


def _gmi(gmi: dict[str, Any]) -> str:
    return (
        f"GMI: {gmi['steps']} steps, learning rate {gmi['lr']:g}, {gmi['restarts']} restarts a"
        " person, all kept."
    )


def _ked(ked: dict[str, Any]) -> str:
    gan = ked["gan"]
    return (
        f"KED-MI: the prior trained on for {gan['steps']} steps ({gan['critic_steps']} of the"
        f" discriminator in each, learning rate {gan['lr']:g}) with the soft labels of the very"
        f" classifier; {ked['steps']} steps on (μ, log σ²), learning rate {ked['lr']:g},"
        f" {ked['samples']} draws of each person's Gaussian, all kept."
    )


def _ppa(ppa: dict[str, Any]) -> str:
    return (
        f"PPA: {ppa['candidates']} candidates, {ppa['kept']} a person optimised for {ppa['steps']}"
        f" steps, learning rate {ppa['lr']:g}, the {ppa['selected']} kept on which the classifier"
        f" is surest over {ppa['transforms']} random crops."
    )


ATTACKS = {"gmi": _gmi, "ked": _ked, "ppa": _ppa}
TABLES = {"facts": facts, "summary": summary, "attacks": table, "ladder": ladder}


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


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    results = root / "benchmarks" / "results" / "lfw" / "results.json"
    write_tables(json.loads(results.read_text(encoding="utf-8")), root / "docs" / "lfw.md")
