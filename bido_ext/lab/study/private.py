# SPDX-License-Identifier: Apache-2.0
"""The private images of a study, prepared as the attacked models saw them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bido_ext.lab.attacks.reconstructions import load_reconstructions
from bido_ext.lab.data import DataConfig, DigitTask, ImageTask, find_dataset, load_task
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.models import find_model

from .sources import RESULTS, read_json, reconstructed


def private_of(
    folders: Sequence[Path],
    *,
    file: Path | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
) -> ImageSet:
    """The private training images of the people (or digits) that were attacked.

    They have the size of the reconstructions, and are cut as ``results.json`` says where it is of
    the same data set.

    Args:
        folders: Result folders; those with ``results.json`` name the data set.
        file: An ``.npz`` with ``images`` (uint8, (n, h, w) or (n, h, w, 3)) and ``labels`` instead.
        dataset: Key of ``DATASETS`` instead.
        data_root: Folder of the data set, if it is not the cached one.

    Raises:
        ValueError: If nothing names the data, folders name different data, the file or folder is
            another thing, or the images are not those of ``results.json`` by their SHA-256.
    """
    if file is not None:
        return _read_npz(file)
    folders = list(map(Path, folders))
    records = [record for folder in folders if (record := _Recorded.read(folder)) is not None]
    if dataset is not None:
        records = [record for record in records if record.dataset == dataset]
    elif not records:
        raise ValueError(
            f"no folder holds {RESULTS}, which names the data set: give --dataset, or --private "
            "with an .npz of images and labels"
        )
    _check_alike(records)
    about: dict[str, Any] = {"private": dataset}
    if records:
        about = {
            "private": records[0].dataset,
            "crop": records[0].crop,
            "val_fraction": records[0].val_fraction,
        }
    config = DataConfig(**about, root=data_root, image_size=_side_of(folders[0]), private_only=True)
    task = load_task(config)
    for record in records:
        record.check(task)
    return ImageSet.of(task.train)


@dataclass(frozen=True)
class _Recorded:
    """What ``results.json`` says of the images of a run.

    Attributes:
        path: The file.
        dataset: Key of ``DATASETS``.
        crop: Of the private files.
        val_fraction: Share of the training images that selected the model.
        sha256: Of the images; None: not told.
        image_size: Side of the images that ``sha256`` is of; None: not told.
        is_demo: Whether ``sha256`` is of the digits alone, whatever their size and split.
    """

    path: Path
    dataset: str
    crop: int
    val_fraction: float
    sha256: str | None
    image_size: int | None
    is_demo: bool

    @classmethod
    def read(cls, folder: Path) -> _Recorded | None:
        """None if the folder's ``results.json`` is missing or names no data set."""
        path = folder / RESULTS
        document = read_json(path) if path.is_file() else {}
        config = document.get("config", {})
        data = config.get("data", {})
        dataset = data.get("private") or data.get("name")
        if dataset is None:
            return None
        crop = data.get("crop", -1)
        if crop < 0:
            crop = find_dataset(dataset).crop
        rows = document.get("rows") or [{}]
        return cls(
            path,
            dataset,
            crop,
            data.get("val_fraction", DataConfig.val_fraction),
            data.get("sha256"),
            _side_of_target(config.get("target") or rows[0].get("config") or {}),
            "private" not in data,
        )

    def check(self, task: DigitTask | ImageTask) -> None:
        """Refuse images that are not the recorded ones, where that can be told."""
        side = ImageSet.of(task.train).shape[-1]
        if self.sha256 is None or not (self.is_demo or self.image_size == side):
            return
        found = [task.digest]
        if isinstance(task, DigitTask):  # files of the first release have it for all runs
            found.insert(0, task.digits_sha256)
        if self.sha256 not in found:
            raise ValueError(
                f"--data must be the images of the run: {self.path} has their SHA-256 as "
                f"{self.sha256[:12]}, here it is {found[0][:12]}; give the run's folder, or "
                "--private with an .npz of images and labels"
            )


def _check_alike(records: Sequence[_Recorded]) -> None:
    for record in records:
        for what in ("dataset", "crop"):
            first, other = getattr(records[0], what), getattr(record, what)
            if first != other:
                raise ValueError(
                    f"folders must be of the same private images: {what} is {first!r} in "
                    f"{records[0].path}, {other!r} in {record.path}"
                )


def _side_of_target(training: Mapping[str, Any]) -> int | None:
    if "arch" not in training:
        return None
    return find_model(training["arch"]).shape(training.get("arch_options", {}))[-1]


def _side_of(folder: Path) -> int:
    """Side of the first reconstructions in a result folder."""
    (_, file), *_ = reconstructed(folder)
    return int(load_reconstructions(file).images.shape[-1])


def _read_npz(file: Path) -> ImageSet:
    try:
        with np.load(file, allow_pickle=False) as content:
            images, labels = content["images"], content["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"private must be an .npz with the arrays images and labels, {file}: {error}"
        ) from None
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            "private images must be uint8 of shape (n, h, w) or (n, h, w, 3), got "
            f"{images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"private labels must be {len(images)} integers, got {labels.dtype} {labels.shape}"
        )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)))
