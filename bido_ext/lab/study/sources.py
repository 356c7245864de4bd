# SPDX-License-Identifier: Apache-2.0
"""From result folders to what a study compares: reconstructions of each defence, private images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bido_ext.lab.data import DataConfig, load_task
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.reconstructions import load_reconstructions
from bido_ext.lab.report import read_results

RESULTS, RECONSTRUCTIONS = "results.json", "reconstructions.pt"


@dataclass(frozen=True)
class Candidate:
    """One defence: its name and the reconstructions of an attack on it.

    Attributes:
        name: Unique within the study; participants never see it.
        images: ``(restarts, classes, channels, height, width)`` in [0, 1].
        classes: The private label of each column.
    """

    name: str
    images: Tensor
    classes: tuple[int, ...]


def find_candidates(folders: Sequence[Path], only: Sequence[str] = ()) -> list[Candidate]:
    """Collect the defences of result folders.

    Args:
        folders: Folders of ``bido demo`` or ``bido sweep`` (every row is a defence), of
            ``bido run`` or of ``bido attack`` (one defence, named after the folder).
        only: Names to keep, in this order; empty keeps all.

    Raises:
        ValueError: If a folder holds neither, or ``only`` names a defence that is not there.
    """
    found = [candidate for folder in folders for candidate in _candidates_of(Path(folder))]
    if not only:
        return found
    names = [candidate.name for candidate in found]
    for name in only:
        if name not in names:
            raise ValueError(f"defences must be among {', '.join(names)}, got {name!r}")
    return [candidate for name in only for candidate in found if candidate.name == name]


def _candidates_of(folder: Path) -> list[Candidate]:
    results = folder / RESULTS
    if results.is_file() and "rows" in _read_json(results):
        # The picture of a row lies beside the reconstructions that it shows.
        return [
            _load(row.name, (folder / row.picture).parent) for row in read_results(results).rows
        ]
    for place in (folder, folder / "attack"):
        if (place / RECONSTRUCTIONS).is_file():
            return [_load(folder.resolve().name, place)]
    raise ValueError(
        f"a result folder must be one of bido demo, bido sweep, bido run or bido attack, {folder} "
        f"holds neither {RESULTS} with rows nor {RECONSTRUCTIONS}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object")
    return content


def _load(name: str, folder: Path) -> Candidate:
    found = load_reconstructions(folder / RECONSTRUCTIONS)
    return Candidate(name, found.images, tuple(found.classes))


def private_of(
    folders: Sequence[Path],
    *,
    file: Path | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
) -> ImageSet:
    """The private training images of the people (or digits) that were attacked.

    Args:
        folders: Result folders; the first with ``results.json`` names the data set.
        file: An ``.npz`` with ``images`` (uint8, (n, h, w) or (n, h, w, 3)) and ``labels`` instead.
        dataset: Key of ``DATASETS`` instead.
        data_root: Folder of the data set, if it is not the cached one.

    Raises:
        ValueError: If nothing names the data, or the file or folder is another thing.
    """
    if file is not None:
        return _read_npz(file)
    if dataset is None:
        named = [folder for folder in map(Path, folders) if (folder / RESULTS).is_file()]
        if not named:
            raise ValueError(
                f"no folder holds {RESULTS}, which names the data set: give --dataset, or --private "
                "with an .npz of images and labels"
            )
        data = _read_json(named[0] / RESULTS).get("config", {}).get("data", {})
        dataset = data.get("name") or data.get("private")
    return ImageSet.of(load_task(DataConfig(dataset, data_root)).train)


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
