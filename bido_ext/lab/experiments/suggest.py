# SPDX-License-Identifier: Apache-2.0
"""Weights for BiDO, measured on a trained classifier of the lab and the images it was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bido_ext.lab.data import DataConfig, ImageSet
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.lab.experiments.pipeline import load_images
from bido_ext.lab.models.checkpoint import load_model, weights_digest
from bido_ext.lab.report.picture_files import save_picture
from bido_ext.lab.training.batches import EpochBatches
from bido_ext.lab.training.train_config import TrainConfig
from bido_ext.nn.suggest_weights import suggest_weights
from bido_ext.nn.weight_ladder import WeightSuggestion

FORMAT, VERSION = "bido_ext.weights", 1


@dataclass(frozen=True)
class Suggested:
    """What was found, and of what."""

    found: WeightSuggestion
    model: dict[str, Any]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "settings": self.settings,
            **self.found.to_dict(),
            "machine": machine_facts(),
            "versions": package_versions(),
        }

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write ``weights.png``, ``weights.svg`` and ``weights.json``; returns their paths."""
        numbers, figure = folder / "weights.json", self.found.plot()
        told = f"Weights of BiDO for {self.model['arch']}, by the share of the gradient"
        picture, themed = (
            save_picture(figure, folder / f"weights{suffix}", told) for suffix in (".png", ".svg")
        )
        write_text(numbers, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return picture, themed, numbers


def suggest_for(
    model: Path,
    data: DataConfig,
    training: TrainConfig,
    *,
    measures: Sequence[str],
    taps: Sequence[str] | None = None,
    sigma: float = 5.0,
    batches: int = 8,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Suggested:
    """Measure the pulls and the push of ``model``, a file of ``save_model``.

    Args:
        data: The data set whose training images are shown, in the model's size.
        training: Its batch_size, sampler, per_identity and seed say how batches are drawn.
        taps: Layers that BiDO watches; None: the model's.

    Raises:
        ValueError: A file, layer or setting does not fit, or the model has no layers to watch.
    """
    network, content = load_model(model)
    layers: tuple[str, ...] = tuple(taps or getattr(network, "taps", ()))  # type: ignore[arg-type]
    if not layers:
        raise ValueError(f"{content['arch']} names no layers to watch; name some with --taps")
    size: int = network.input_shape[-1]  # type: ignore[index,union-attr,assignment]
    task = load_images(replace(data, image_size=size), progress=progress).task
    images = ImageSet.of(task.train)
    drawn = EpochBatches(training, images.labels).epoch(
        torch.Generator().manual_seed(training.seed)
    )

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in tqdm(drawn[:batches], "suggest", unit="batch", disable=not progress):
            yield images.batch(rows), images.labels[rows]

    found = suggest_weights(
        network.train().to(device),
        layers,
        pairs(),
        measures=measures,
        seen=getattr(network, "seen", None),
        max_batches=batches,
        sigma=sigma,
    )
    facts = {
        "arch": content["arch"],
        "defence": content["defence"],
        "sha256": weights_digest(network),
        "taps": list(layers),
    }
    settings = {
        "dataset": data.private,
        "batch_size": training.batch_size,
        "sampler": training.sampler,
        "per_identity": training.per_identity,
        "seed": training.seed,
        "sigma": sigma,
    }
    return Suggested(found, facts, settings)
