# SPDX-License-Identifier: Apache-2.0
"""Does ``bx.suggest_weights`` help? ``python -m benchmarks.weight_trials [--lfw ARCHIVE]``

Trains a classifier plainly, asks for weights, and trains it anew at the bottom, the middle and the top rung of
every measure, alike but for the weights: MCNN on MNIST, and with --lfw the small network of benchmarks.lfw on
faces. Writes benchmarks/results/weights/trials.json after every training and continues from it; the table
of docs/weights.md is ``python -m benchmarks.weight_trials --table``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bido_ext as bx
from benchmarks.machine import ROOT, machine_line
from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.data.augment import random_affine
from bido_ext.lab.data.identity_batches import IdentityBatches
from bido_ext.lab.defences import bido
from bido_ext.lab.experiments.pipeline import LabData, load_data
from bido_ext.lab.experiments.presets import find_preset
from bido_ext.lab.training.train import train_classifier

RESULTS = ROOT / "benchmarks" / "results" / "weights" / "trials.json"
FORMAT, VERSION = "bido_ext.weight_trials", 1
MEASURES = ("nhsic", "coco", "hsic", "cka")
DEFENCES = {"none": "none", "nhsic": "bido-hsic", "coco": "bido-coco"}
#: Rungs that are tried: their place in the ladder and their name.
TRIED = {0: "bottom", 2: "middle", 4: "top"}


@dataclass(frozen=True)
class Setting:
    """A data set with its network.

    Attributes:
        plain: Trains the undefended classifier for a while, as suggest_weights wants it.
        batches: Pairs (x, y) as in training.
        train: Natural accuracy and the last epoch's means of a full training with (measure, weights).
    """

    name: str
    plain: Callable[[], nn.Module]
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    taps: tuple[str, ...]
    train: Callable[[str, dict[str, float]], dict[str, Any]]


def mnist() -> Setting:
    """MCNN on digits 0-4, one epoch under a cosine schedule, as the demo trains it."""
    data: LabData = load_data("mnist")
    config = find_preset("quick").target
    images = ImageSet.of(data.task.train)

    def fit(measure: str, weights: dict[str, float]) -> tuple[nn.Module, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder, trained_with(measure) as name:
            run = train_classifier(
                replace(config, defence=name, weights=weights), data.task, folder, progress=False
            )
        return run.model, {"natural_accuracy": run.test_accuracy, "last_epoch": run.history[-1]}

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        for rows in order.split(config.batch_size):
            yield images.batch(rows), images.labels[rows]

    plain = lambda: fit("none", {})[0]  # noqa: E731
    taps = ("layer1", "layer2", "layer3")
    return Setting("MNIST, MCNN", plain, batches, taps, lambda *of: fit(*of)[1])


def faces(archive: Path) -> Setting:
    """The network and the protocol of benchmarks.lfw; asked after 5 of 35 epochs."""
    from benchmarks.lfw.networks import TAPS
    from benchmarks.lfw.protocol import as_float, load_faces
    from benchmarks.lfw.target import AUGMENTATION, TargetConfig, train

    data = load_faces(archive)
    config = TargetConfig(epochs=35)

    def fit(measure: str, weights: dict[str, float]) -> dict[str, Any]:
        with trained_with(measure) as name:
            fitted = train(replace(config, defence=name, weights=weights), data)
        return {key: fitted.outcome[key] for key in ("natural_accuracy", "last_epoch")}

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator().manual_seed(0)
        drawn = IdentityBatches(data.train_labels, config.batch_size, config.per_person)
        images = as_float(data.train)
        for rows in drawn.epoch(random):
            yield random_affine(images[rows], AUGMENTATION, random), data.train_labels[rows]

    return Setting(
        "LFW, five blocks", lambda: train(replace(config, epochs=5), data).model, batches, TAPS, fit
    )


@contextmanager
def trained_with(measure: str) -> Iterator[str]:
    """The lab's defence of a measure; hsic and cka, which no paper uses, stand in for its nhsic meanwhile."""
    if measure in DEFENCES:
        yield DEFENCES[measure]
        return
    kept, bido.BidoHsic.measure = bido.BidoHsic.measure, measure
    try:
        yield DEFENCES["nhsic"]
    finally:
        bido.BidoHsic.measure = kept


def run(setting: Setting, document: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill in what ``document`` lacks of a setting."""
    of = document["settings"].setdefault(setting.name, {"trials": {}})
    if "found" not in of:
        model = setting.plain().train()
        of["found"] = bx.suggest_weights(model, setting.taps, setting.batches()).to_dict()
        save()
    wanted: list[tuple[str, str, dict[str, float]]] = [("none", "plain", {})]
    for measure in MEASURES:
        rungs = of["found"]["ladders"][measure]["rungs"]
        for place, name in TRIED.items():
            rung = rungs[place]
            wanted.append((measure, name, {key: rung[key] for key in ("lambda_x", "lambda_y")}))
    for measure, name, weights in wanted:
        key = f"{measure} {name}"
        if of["trials"].get(key, {}).get("weights") != weights:
            of["trials"][key] = {"weights": weights, **setting.train(measure, weights)}
            print(setting.name, key, weights, of["trials"][key]["natural_accuracy"], flush=True)
            save()


def table(document: dict[str, Any]) -> str:
    """A row a measure: natural accuracy at each rung, and d(X, Z) against plain training."""
    lines = [
        "| data, network | measure | λx, λy at the middle | natural accuracy: plain | bottom | middle | top "
        "| Σ d(X, Z) at the top, of plain |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, of in document["settings"].items():
        trials = of["trials"]
        plain = trials["none plain"]["natural_accuracy"]
        for measure in MEASURES:
            rows = [trials[f"{measure} {rung}"] for rung in TRIED.values()]
            middle = rows[1]["weights"]
            cells = " | ".join(f"{100 * row['natural_accuracy']:.1f} %" for row in rows)
            left = _terms_of_x(rows[-1]["last_epoch"])
            before = sum(of["found"]["ladders"][measure]["terms_x"].values())
            lines.append(
                f"| {name} | {measure} | {_told(middle['lambda_x'])}; {_told(middle['lambda_y'])} | "
                f"{100 * plain:.1f} % | {cells} | {100 * left / before:.0f} % |"
            )
    return "\n".join(lines)


def _told(weight: float) -> str:
    return f"{weight:,.0f}" if weight >= 10 else f"{weight:.2g}"


def _terms_of_x(epoch: dict[str, float]) -> float:
    return sum(value for name, value in epoch.items() if name.startswith("d(x,"))


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_trials", description=__doc__)
    parser.add_argument("--lfw", type=Path, help="the LFWcrop archive, see docs/lfw.md")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "settings": {}}
    if arguments.out.exists():
        document = json.loads(arguments.out.read_text())
    if arguments.table:
        print(table(document))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def save() -> None:
        document["machine"] = machine_line("cpu")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out, json.dumps(document, indent=1, allow_nan=False) + "\n")

    run(mnist(), document, save)
    if arguments.lfw is not None:
        run(faces(arguments.lfw), document, save)


if __name__ == "__main__":
    main()
