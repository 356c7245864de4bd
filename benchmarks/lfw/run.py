# SPDX-License-Identifier: Apache-2.0
"""Train, attack and judge every cell, each in its own resumable folder; write what is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lfw.attack import attack, settings, unguided
from benchmarks.lfw.cells import Cell
from benchmarks.lfw.judge import FaceJudge
from benchmarks.lfw.kept import kept_rows
from benchmarks.lfw.prior import PriorConfig, train_prior
from benchmarks.lfw.protocol import SHA256, SPLIT_SEED, Faces, as_float, load_faces
from benchmarks.lfw.target import TargetConfig, build, train
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.judging import PrivateReference, judge_attack
from bido_ext.lab.models.checkpoint import load_checkpoint
from bido_ext.lab.models.safe_save import save_atomic

FORMAT, VERSION = "bido_ext.lfw", 3
OPTIONS = RunOptions(on_change="rerun", progress=False)
RunRows = Callable[[Sequence[Cell]], Iterator[dict[str, Any]]]


class Run:
    """One run.

    Args:
        faces: The data.
        work: Folder of models, reconstructions and descriptors.
        judge_python: Interpreter of the judge.
        epochs: Of every classifier.
    """

    def __init__(self, faces: Faces, work: Path, judge_python: Path, epochs: int) -> None:
        self.faces, self.work, self.epochs = faces, work, epochs
        self.judge = FaceJudge(judge_python, work / "judge", len(faces.people))
        self.prior_config = PriorConfig()
        self.document: dict[str, Any] = {}

    def prepare(self) -> None:
        """Train the prior and fit the judge; what lies in the work folder is loaded."""
        self.prior = train_prior(self.prior_config, self.faces.public, self.work / "prior")
        say("judge: descriptors of the private images, logistic regression")
        self.judge.fit(self.faces)
        self.reference = self._reference()

    def all(
        self,
        cells: Sequence[Cell],
        results: Path,
        keep: bool = False,
        run_rows: RunRows | None = None,
    ) -> None:
        """Run the cells and write ``results`` after each.

        Args:
            keep: Rows of ``results`` that have all attacks of their cell stay as they are.
            run_rows: Makes the rows of the cells it is given; default one after the other, here.
        """
        self.prepare()
        self.document = self._facts()
        kept = kept_rows(results, self.document) if keep else {}
        kept = {
            cell.name: kept[cell.name]
            for cell in cells
            if cell.name in kept and set(cell.attacks) <= set(kept[cell.name]["attacks"])
        }
        rows = dict(kept)
        self._write(cells, rows, results)
        todo = [cell for cell in cells if cell.name not in kept]
        for row in (run_rows or self._one_by_one)(todo):
            rows[row["name"]] = row
            self._write(cells, rows, results)

    def _one_by_one(self, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
        return (self.cell(cell) for cell in cells)

    def _write(self, cells: Sequence[Cell], rows: dict[str, Any], results: Path) -> None:
        self.document["rows"] = [rows[cell.name] for cell in cells if cell.name in rows]
        write_text(results, json.dumps(self.document, indent=1) + "\n")

    def cell(self, cell: Cell) -> dict[str, Any]:
        """One row of the table."""
        model, outcome = self.target(cell)
        row: dict[str, Any] = {
            "name": cell.name,
            "written": _now(),
            "defence": cell.defence,
            "weights": dict(cell.weights),
            "taps": list(cell.taps),
            "seed": cell.seed,
            "epochs": self.epochs if cell.epochs is None else cell.epochs,
            "training": outcome,
            "attacks": {},
        }
        say(f"{cell.name}: natural accuracy {100 * outcome['natural_accuracy']:.1f}%")
        for name in cell.attacks:
            out = self.work / "attacks" / name / cell.name
            found, seconds = attack(name, model, self.prior, self.faces, out, OPTIONS)
            judged = self.judged(found.images, found.draws)
            row["attacks"][name] = {
                **judged,
                "target_confidence": float(found.target_confidence.mean()),
                "seconds": seconds,
            }
            say(
                f"{cell.name}: {name}, target {float(found.target_confidence.mean()):.3f}, judge "
                f"top-1 {100 * judged['attack_accuracy']:.1f}%, top-5 "
                f"{100 * judged['attack_accuracy_top5']:.1f}%, {seconds}"
            )
        return row

    def target(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """The cell's classifier; a finished one is loaded."""
        epochs = self.epochs if cell.epochs is None else cell.epochs
        config = TargetConfig(
            cell.defence, dict(cell.weights), taps=cell.taps, epochs=epochs, seed=cell.seed
        )
        settings = {"stage": "lfw target", "data": SHA256, "split": SPLIT_SEED, **asdict(config)}
        stage = Stage(self.work / "targets" / cell.name, settings, "model.pt")
        outcome = stage.outcome(OPTIONS)
        if outcome is None:
            fitted = train(config, self.faces, cell.name)
            save_atomic(fitted.model.state_dict(), stage.product)
            outcome = fitted.outcome
            stage.finish(outcome)
        model = build(config, len(self.faces.people))
        model.load_state_dict(load_checkpoint(stage.product))
        return model.eval(), outcome

    def judged(self, images: Tensor, draws: int = 1) -> dict[str, Any]:
        """The metrics of one attack; classes by their hits alone."""
        people = range(len(self.faces.people))
        metrics = asdict(
            judge_attack(self.judge, images.float(), people, self.reference, draws=draws)
        )
        per_class = metrics.pop("per_class")
        metrics["classes"] = len(metrics["classes"])
        restarts = metrics["restarts"]
        metrics["hits_per_class"] = [round(one["attack_accuracy"] * restarts) for one in per_class]
        return metrics

    def _reference(self) -> PrivateReference:
        features = self.judge.describe(self.faces.train)
        return PrivateReference(as_float(self.faces.train), self.faces.train_labels, features)

    def _facts(self) -> dict[str, Any]:
        faces = self.faces
        top1, top5 = self.judge.accuracy(faces.test, faces.test_labels)
        say(f"judge on real private test images: top-1 {100 * top1:.1f}%, top-5 {100 * top5:.1f}%")
        say("judge on the images that GMI starts from (chance)")
        return {
            "format": FORMAT,
            "version": VERSION,
            "written": _now(),
            "machine": {**machine_facts(), "PyTorch threads": str(torch.get_num_threads())},
            "versions": package_versions(),
            "data": {
                "sha256": SHA256,
                "split_seed": SPLIT_SEED,
                "people": len(faces.people),
                "train": len(faces.train),
                "test": len(faces.test),
                "public": len(faces.public),
            },
            "judge": {"top1_on_test": top1, "top5_on_test": top5, "test_images": len(faces.test)},
            "chance": self.judged(unguided(self.prior, faces)),
            "prior": {**asdict(self.prior_config), "seconds": self.prior.seconds},
            "target": asdict(TargetConfig(epochs=self.epochs)),
            "attacks": settings(),
        }


def open_run(data: Path, work: Path, judge_python: Path, epochs: int) -> Run:
    """The run of an archive; every process makes its own."""
    return Run(load_faces(data), work, judge_python, epochs)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def say(line: str) -> None:
    """Print one line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
