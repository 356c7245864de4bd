# SPDX-License-Identifier: Apache-2.0
"""``bido evaluate``: accuracy of a model, or judgement of reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import (
    Crop,
    Data,
    Dataset,
    Device,
    Json,
    Preset,
    Public,
    PublicData,
    print_json,
)


@plain_errors
def evaluate(
    file: Annotated[Path, typer.Argument(help="A model.pt or a reconstructions.pt.")],
    evaluator: Annotated[
        Path | None,
        typer.Option(help="model.pt of the evaluation classifier; needed for reconstructions."),
    ] = None,
    second_judge: Annotated[
        Path | None,
        typer.Option(help="model.pt of a second evaluation classifier, of another architecture."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG file to write: reconstructions beside private images.")
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(help="Weights of the FID network; adds the Frechet distance on its features."),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(help="Weights of torchvision's VGG16 or AlexNet; adds LPIPS."),
    ] = None,
    required: Annotated[
        float | None,
        typer.Option(
            help="Accuracy that the evaluation classifier must have. Default: the preset's."
        ),
    ] = None,
    preset: Preset = "quick",
    dataset: Dataset = None,
    data: Data = None,
    crop: Crop = None,
    public: Public = None,
    public_data: PublicData = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Judge an attack, or test a model.

    Give a model.pt to get its natural accuracy on the private test set. (An evaluation classifier
    of digits is tested on all ten digits.)

    Give a reconstructions.pt and --evaluator to judge an attack. The accuracy of the evaluation
    classifier is printed first. If it is below the required accuracy, the other numbers mean
    little. With --second-judge you also get the second accuracy, and the number of reconstructions
    on which the two judges disagree.

    \b
    Example:
      bido evaluate runs/hsic/model.pt
      bido evaluate runs/gmi-hsic/reconstructions.pt --evaluator runs/evaluator/model.pt
      bido evaluate runs/ppa-faces/reconstructions.pt --evaluator runs/faces-evaluator/model.pt \\
        --dataset lfw --data ~/lfw --required 0.9
    """
    from dataclasses import replace

    from bido_ext.lab.attacks.reconstructions import FORMAT as RECONSTRUCTIONS
    from bido_ext.lab.attacks.reconstructions import FOUND
    from bido_ext.lab.data import DataConfig
    from bido_ext.lab.experiments.pipeline import pick_device
    from bido_ext.lab.experiments.presets import find_preset
    from bido_ext.lab.models.checkpoint import load_checkpoint
    from bido_ext.lab.models.wanted import MODEL

    wanted = replace(MODEL, allowed=f"{FOUND.allowed}, {MODEL.allowed}")
    content = load_checkpoint(file, wanted)
    kind = content.get("format") if isinstance(content, dict) else None
    where = pick_device(device)
    name = dataset or find_preset(preset).data
    source = DataConfig(name, data, public, public_data, crop=crop)
    if kind == RECONSTRUCTIONS:
        if evaluator is None:
            raise ValueError(
                "--evaluator must name the model.pt of an evaluation classifier to judge "
                "reconstructions (train one with bido train --evaluator)"
            )
        least = find_preset(preset).required_evaluator_accuracy if required is None else required
        document, text = _judge(
            file, evaluator, second_judge, least, picture, inception, lpips, source, where
        )
    else:
        for option, given in {
            "--evaluator": evaluator, "--second-judge": second_judge, "--picture": picture,
            "--inception": inception, "--lpips": lpips, "--required": required,
        }.items():  # fmt: skip
            if given is not None:
                raise ValueError(f"{option} needs reconstructions, {file} has none")
        document, text = _accuracy(file, source, where)
    if json:
        print_json(document)
    else:
        typer.echo(text)


def _loaded(source: Any, size: int) -> Any:
    """The sets of an experiment (a ``DataConfig``) with images of one size."""
    from dataclasses import replace

    from bido_ext.lab.experiments.pipeline import load_images

    return load_images(replace(source, image_size=size)).task


def _accuracy(file: Path, source: Any, device: Any) -> tuple[dict[str, Any], str]:
    from bido_ext.lab.data.registry import check_channels, class_counts
    from bido_ext.lab.models import find_model
    from bido_ext.lab.models.checkpoint import load_model
    from bido_ext.lab.training.train import accuracy

    model, facts = load_model(file)
    counts = class_counts(source)  # before minutes are spent on images
    if facts["num_classes"] not in counts:
        raise ValueError(
            f"model must have the {counts[0]} private classes of {source.private!r} or the {counts[1]} "
            f"of its evaluation classifier, {file} has {facts['num_classes']}; another data set is "
            "named by --dataset"
        )
    shape = find_model(facts["arch"]).shape(facts["arch_options"])
    check_channels(source, shape, file)
    task = _loaded(source, shape[-1])
    is_evaluator = facts["num_classes"] != task.num_classes
    test = task.judge_test if is_evaluator else task.test
    share = accuracy(model.to(device), test)
    document = {
        "model": str(file),
        "arch": facts["arch"],
        "defence": facts["defence"],
        "test_set": f"all {counts[1]} classes" if is_evaluator else "private classes",
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
    second_file: Path | None,
    required: float,
    picture: Path | None,
    inception: Path | None,
    lpips: Path | None,
    source: Any,
    device: Any,
) -> tuple[dict[str, Any], str]:
    from dataclasses import asdict

    from bido_ext.lab.attacks.reconstructions import attacked_model, load_reconstructions
    from bido_ext.lab.data import ImageSet
    from bido_ext.lab.data.registry import check_channels, class_counts
    from bido_ext.lab.judging import (
        PrivateReference,
        check_second,
        judge_attack,
        load_inception,
        load_lpips,
        save_comparison,
        second_opinion,
    )
    from bido_ext.lab.models.checkpoint import load_model, weights_digest
    from bido_ext.lab.report.judgement import judgement_text, second_text
    from bido_ext.lab.training.train import accuracy

    found = load_reconstructions(file)
    # All that can be refused, before minutes are spent on images.
    private_classes, judge_classes = class_counts(source)
    evaluator, facts = load_model(evaluator_file, expect_num_classes=judge_classes)
    if max(found.classes) >= private_classes:
        raise ValueError(
            f"{source.private!r} has {private_classes} private classes, {file} holds "
            f"reconstructions of label {max(found.classes)}; another data set is named by --dataset"
        )
    check_channels(source, found.images.shape[-3:], file)
    if weights_digest(evaluator) == attacked_model(file):
        raise ValueError(
            f"--evaluator must be a classifier that the attacker never used, {evaluator_file} is the "
            "attacked model itself"
        )
    second = None
    if second_file is not None:
        second, second_facts = load_model(second_file, expect_num_classes=judge_classes)
        check_second(facts["arch"], second_facts["arch"], second_file)
        if weights_digest(second) == attacked_model(file):
            raise ValueError(f"--second-judge {second_file} is the attacked model itself")
    perceptual = None if lpips is None else load_lpips(lpips).to(device)
    network = None if inception is None else load_inception(inception).to(device)
    # The evaluator resizes on entry if it looks at larger images than the attack makes.
    task = _loaded(source, found.images.shape[-1])
    evaluator.to(device)
    own_accuracy = accuracy(evaluator, task.judge_test)
    private = ImageSet.of(task.train).only(found.classes)
    reference = PrivateReference.of(evaluator, private, private.labels)
    metrics = judge_attack(
        evaluator,
        found.images,
        found.classes,
        reference,
        inception=network,
        lpips=perceptual,
        draws=found.draws,
    )
    if picture is not None:
        save_comparison(picture, evaluator, found.images, found.classes, reference)
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
    text = judgement_text(metrics, own_accuracy, required, picture)
    if second is not None:
        second.to(device)
        opinion = second_opinion(evaluator, second, found.images, found.classes)
        theirs = accuracy(second, task.judge_test)
        arch = second_facts["arch"]
        document["second_judge"] = {
            "model": str(second_file),
            "arch": arch,
            "test_accuracy": theirs,
            **asdict(opinion),
        }
        text = f"{second_text(metrics, opinion, arch, theirs)}\n{text}"
    return document, text
