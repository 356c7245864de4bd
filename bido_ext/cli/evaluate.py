# SPDX-License-Identifier: Apache-2.0
"""``bido evaluate``: accuracy of a model, or judgement of reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Data, Device, Json, Preset, print_json

EVALUATOR_CLASSES = 10


@plain_errors
def evaluate(
    file: Annotated[Path, typer.Argument(help="A model.pt or a reconstructions.pt.")],
    evaluator: Annotated[
        Path | None,
        typer.Option(help="The evaluation classifier's model.pt, to judge reconstructions."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to draw: reconstructions beside private images.")
    ] = None,
    preset: Preset = "quick",
    data: Data = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Judge an attack, or test a model.

    A model.pt with ten classes is tested on all ten digits, another on the private test set.
    Reconstructions need --evaluator (see bido train --evaluator).

    \b
    Example:
      bido evaluate runs/hsic/model.pt
      bido evaluate runs/gmi-hsic/reconstructions.pt --evaluator runs/evaluator/model.pt
    """
    from bido_ext.lab.checkpoint import load_checkpoint
    from bido_ext.lab.pipeline import pick_device
    from bido_ext.lab.reconstructions import FORMAT as RECONSTRUCTIONS

    content = load_checkpoint(file)
    kind = content.get("format") if isinstance(content, dict) else None
    where = pick_device(device)
    if kind == RECONSTRUCTIONS:
        if evaluator is None:
            raise ValueError(
                "--evaluator must name the model.pt of an evaluation classifier to judge "
                "reconstructions (train one with bido train --evaluator)"
            )
        document, text = _judge(file, evaluator, picture, preset, data, where)
    else:
        if evaluator is not None or picture is not None:
            raise ValueError(f"--evaluator and --picture need reconstructions, {file} has none")
        document, text = _accuracy(file, preset, data, where)
    if json:
        print_json(document)
    else:
        typer.echo(text)


def _accuracy(
    file: Path, preset: str, data: Path | None, device: Any
) -> tuple[dict[str, Any], str]:
    from bido_ext.lab.checkpoint import load_model
    from bido_ext.lab.models import MODELS
    from bido_ext.lab.pipeline import load_data
    from bido_ext.lab.presets import find_preset
    from bido_ext.lab.train import accuracy

    model, facts = load_model(file)
    digits = load_data(find_preset(preset).data, data, MODELS[facts["arch"]].input_shape[-1])
    is_evaluator = facts["num_classes"] == EVALUATOR_CLASSES
    test = digits.task.judge_test if is_evaluator else digits.task.test
    share = accuracy(model.to(device), test)
    document = {
        "model": str(file),
        "arch": facts["arch"],
        "defence": facts["defence"],
        "test_set": "all ten digits" if is_evaluator else "private digits",
        "test_images": len(test),
        "natural_accuracy": share,
    }
    return document, (
        f"natural accuracy {100 * share:.2f}% on {len(test)} test images "
        f"({document['test_set']}; {facts['arch']}, defence {facts['defence']})"
    )


def _judge(
    file: Path,
    evaluator_file: Path,
    picture: Path | None,
    preset: str,
    data: Path | None,
    device: Any,
) -> tuple[dict[str, Any], str]:
    from dataclasses import asdict

    from bido_ext.lab.checkpoint import load_model
    from bido_ext.lab.judge import PrivateReference, judge_attack, save_comparison
    from bido_ext.lab.pipeline import load_data
    from bido_ext.lab.presets import find_preset
    from bido_ext.lab.reconstructions import load_reconstructions
    from bido_ext.lab.report.table import attack_text
    from bido_ext.lab.train import accuracy

    found = load_reconstructions(file)
    evaluator, _ = load_model(evaluator_file, expect_num_classes=EVALUATOR_CLASSES)
    evaluator.to(device)
    base = find_preset(preset)
    digits = load_data(base.data, data)
    own_accuracy = accuracy(evaluator, digits.task.judge_test)
    reference = PrivateReference.of(evaluator, *digits.task.train.tensors)
    metrics = judge_attack(evaluator, found.images, found.classes, reference)
    if picture is not None:
        save_comparison(picture, evaluator, found.images, found.classes, reference)
    required = base.required_evaluator_accuracy
    document = {
        "reconstructions": str(file),
        "evaluator": {
            "model": str(evaluator_file),
            "test_accuracy": own_accuracy,
            "required_accuracy": required,
            "is_met": own_accuracy >= required,
        },
        "picture": None if picture is None else str(picture),
        **asdict(metrics),
    }
    met = "met" if own_accuracy >= required else "NOT MET, the numbers below mean little"
    lines = [
        f"evaluator      {100 * own_accuracy:.2f}% on its test set (required "
        f"{100 * required:.1f}%: {met})",
        f"attack top-1   {attack_text(metrics)} (+- std over {metrics.restarts} restarts [95% CI])",
        f"attack top-5   {100 * metrics.attack_accuracy_top5:.1f}%",
        f"KNN dist       {metrics.knn_distance:.4g}",
        f"feature dist   {metrics.feature_distance:.4g}",
        f"Frechet        {metrics.frechet_distance:.4g} ({metrics.frechet_reconstructions} "
        f"reconstructions, {metrics.frechet_private} private images)",
    ]
    return document, "\n".join(lines if picture is None else [*lines, f"picture        {picture}"])
