# SPDX-License-Identifier: Apache-2.0
"""The whole story: train an evaluator and a prior, then train, attack and judge each defence.

Folder of a run: ``evaluator/``, ``second_evaluator/``, ``gan/``, ``defences/<name>/``, ``attacks/gmi/<name>/``,
``results.json``, ``report.html``, ``tradeoff.png``.  Each step lives in its own resumable stage,
so a run that is called again does only what is missing or has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bido_ext.lab.data import DigitTask
from bido_ext.lab.defences import description_of, label_of
from bido_ext.lab.experiments.attacking import PublicSet, attack_target, train_prior
from bido_ext.lab.experiments.commands import Commands
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.pipeline import (
    LabData,
    Trained,
    load_data,
    train_judge,
    train_target,
)
from bido_ext.lab.experiments.presets import DEMO_ATTACK, DemoPreset
from bido_ext.lab.experiments.recipes.inputs import size_of
from bido_ext.lab.experiments.second_judge import second_judge_of
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.judging import (
    PrivateReference,
    SecondJudge,
    judge_attack,
    save_comparison,
    second_opinion,
)
from bido_ext.lab.report import (
    EvaluatorResult,
    Results,
    Row,
    save_tradeoff,
    write_report,
    write_results,
)
from bido_ext.lab.report.table import attack_text


def run_demo(
    preset: DemoPreset,
    out: Path,
    *,
    seed: int = 0,
    data_root: Path | None = None,
    options: RunOptions | None = None,
    narrator: Narrator | None = None,
) -> Results:
    """Run a preset and write ``results.json``, ``tradeoff.png`` and ``report.html`` into ``out``.

    Args:
        preset: What to run.
        out: Folder of the run; finished stages in it are reused.
        seed: Starts every random stream.
        data_root: torchvision-style MNIST folder; None takes the cache or fetches MNIST once.
        options: How to run; by default stages whose configuration changed are run again.
        narrator: Where to tell the story; by default stderr.

    Returns:
        What was written to ``results.json``.

    Raises:
        ValueError: If the data cannot be used or a folder holds files of something else.
    """
    run = _Run(preset.with_seed(seed), Path(out), seed, data_root, options, narrator)
    with locked(run.out):
        shared = run.prepare()
        rows = tuple(run.defence(shared, defence, weights) for defence, weights in run.preset.sweep)
        results = run.results(shared, rows)
        with run.narrator.stage("Write the report", "Numbers, pictures and plot in one file."):
            write_results(results, run.out / "results.json")
            save_tradeoff(results, run.out / "tradeoff.png")
            save_tradeoff(results, run.out / "tradeoff.svg")
            write_report(results, run.out / "report.html")
        return results


@dataclass(frozen=True)
class _Shared:
    """What every attack shares: data, judges, prior, private features."""

    data: LabData
    evaluator: Trained
    second: Trained
    second_arch: str
    gan: Any
    reference: PrivateReference


class _Run:
    """One run: where it writes, how it speaks."""

    def __init__(
        self,
        preset: DemoPreset,
        out: Path,
        seed: int,
        data_root: Path | None,
        options: RunOptions | None,
        narrator: Narrator | None,
    ) -> None:
        self.preset, self.out, self.seed, self.data_root = preset, out, seed, data_root
        self.commands = Commands(preset.name, seed, out, data_root)
        self.options = RunOptions(on_change="rerun") if options is None else options
        self.narrator = narrator or Narrator(stages=4 + 2 * len(preset.sweep))

    def prepare(self) -> _Shared:
        """Load the data, train the judges and the generator."""
        preset, say = self.preset, self.narrator.stage
        with say(
            f"Load the data: {preset.data}",
            "Digits 0-4 are private (the attack must rebuild them), 5-9 public (the attacker's).",
        ) as told:
            data = load_data(preset.data, self.data_root)
            task = data.task
            told.append(
                f"{len(task.train)} private training, {len(task.val)} validation and "
                f"{len(task.test)} test images; {len(task.public)} public images"
            )
        with say(
            "Train two evaluation classifiers (all ten digits)",
            "They judge the reconstructions later; the attacker never uses them.",
        ) as told:
            evaluator = train_judge(data, preset.evaluator, self.out / "evaluator", self.options)
            required = preset.required_evaluator_accuracy
            met = "met" if evaluator.test_accuracy >= required else "NOT MET"
            told.append(evaluator.note)
            told.append(
                f"test accuracy {100 * evaluator.test_accuracy:.2f}%, required "
                f"{100 * required:.1f}%: {met}"
            )
            config = second_judge_of(preset.evaluator, preset.target)
            images = load_data(preset.data, self.data_root, size_of(config))
            second = train_judge(images, config, self.out / "second_evaluator", self.options)
            told.append(second.note)
            told.append(
                f"second judge ({config.arch}): test accuracy {100 * second.test_accuracy:.2f}%"
            )
            reference = PrivateReference.of(evaluator.model, *task.train.tensors)
        with say(
            "Train the attacker's generator (public digits only)",
            "It gives the attack a prior of what images look like and never sees a private digit.",
        ) as told:
            gan, note = train_prior(
                DEMO_ATTACK.name, PublicSet.of(data), preset.prior, self.out / "gan", self.options
            )
            told.append(note)
        return _Shared(data, evaluator, second, config.arch, gan, reference)

    def defence(self, shared: _Shared, defence: str, weights: Mapping[str, float]) -> Row:
        """Train one defended model, attack it and judge the attack."""
        data, evaluator = shared.data, shared.evaluator
        preset, config = self.preset, self.preset.target_for(defence, weights)
        name = "-".join([defence, *(f"{value:g}" for value in config.weights.values())])
        label = label_of(defence)
        title = " ".join([label, *(f"{key}={value:g}" for key, value in config.weights.items())])
        attack_dir = self.out / "attacks" / DEMO_ATTACK.name / name
        with self.narrator.stage(
            f"Train the classifier: {title}", f"{description_of(defence)}."
        ) as told:
            target = train_target(data, config, self.out / "defences" / name, self.options)
            told.append(target.note)
            told.append(
                f"natural accuracy {100 * target.test_accuracy:.2f}% on private test images"
            )
        with self.narrator.stage(
            f"Attack the classifier: {title}",
            f"GMI: {preset.attack.restarts} restarts for each private class, "
            f"{preset.attack.steps} steps in the generator's latents.",
        ) as told:
            attacked = attack_target(
                DEMO_ATTACK.name, target.model, shared.gan, preset.attack, range(data.task.num_classes),
                attack_dir, self.options,
            )  # fmt: skip
            found = attacked.reconstructions
            judged = (evaluator.model, found.images, found.classes, shared.reference)
            metrics = judge_attack(*judged, draws=found.draws)
            picture = save_comparison(attack_dir / "comparison.png", *judged)
            told.append(attacked.note)
            told.append(f"attack accuracy {attack_text(metrics)}")
            opinion = second_opinion(
                evaluator.model, shared.second.model, found.images, found.classes
            )
            told.append(f"by the second judge {100 * opinion.attack_accuracy:.1f}%")
        return Row(
            name=name,
            defence=defence,
            label=label,
            weights=dict(config.weights),
            natural_accuracy=target.test_accuracy,
            val_accuracy=target.val_accuracy,
            attack=metrics,
            target_confidence=float(found.target_confidence.mean()),
            picture=picture.relative_to(self.out).as_posix(),
            seconds={"training": target.seconds, "attack": attacked.seconds},
            config=config.plain(),
            commands=self.commands.row(name, defence, config.weights),
            second=SecondJudge(shared.second_arch, shared.second.test_accuracy, opinion),
        )

    def results(self, shared: _Shared, rows: tuple[Row, ...]) -> Results:
        """Everything of the run in one document."""
        data, evaluator = shared.data, shared.evaluator
        preset, task = self.preset, data.task
        assert isinstance(task, DigitTask)  # as of every preset
        return Results(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.commands.demo(),
            preset=preset.name,
            seed=self.seed,
            seconds=evaluator.seconds
            + shared.second.seconds
            + shared.gan.seconds
            + sum(seconds for row in rows for seconds in row.seconds.values()),
            machine={**machine_facts(), "device": str(self.options.device)},
            versions=package_versions(),
            task=_task_facts(data, preset.notes),
            config={
                "data": {"name": data.name, "sha256": task.digits_sha256},
                "evaluator": preset.evaluator.plain(),
                "prior": asdict(preset.prior),
                "attack": {
                    "name": DEMO_ATTACK.name,
                    "classes": task.num_classes,
                    **asdict(preset.attack),
                },
            },
            evaluator=EvaluatorResult(
                arch=preset.evaluator.arch,
                test_accuracy=evaluator.test_accuracy,
                required_accuracy=preset.required_evaluator_accuracy,
                seconds=evaluator.seconds,
            ),
            rows=rows,
        )


def _task_facts(data: LabData, notes: tuple[str, ...]) -> dict[str, Any]:
    task = data.task
    return {
        "name": {"mnist": "MNIST", "synthetic": "synthetic digits"}[data.name],
        "private": "digits 0-4",
        "public": "digits 5-9",
        "num_classes": task.num_classes,
        "private_train": len(task.train),
        "private_val": len(task.val),
        "private_test": len(task.test),
        "public_images": len(task.public),
        "chance_attack_accuracy": 1 / task.num_classes,
        "chance_note": (
            f"An image of a private class drawn at random hits the wanted class once in "
            f"{task.num_classes}. The evaluation classifier knows all ten digits, so an attack can "
            "also fall below that."
        ),
        "notes": list(notes),
    }
