# SPDX-License-Identifier: Apache-2.0
"""From result folders to the reconstructions of each defence that a study compares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bido_ext.lab.attacks.reconstructions import load_reconstructions
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
    found = [_load(*place) for folder in folders for place in reconstructed(Path(folder))]
    if not only:
        return found
    names = [candidate.name for candidate in found]
    for name in only:
        if name not in names:
            raise ValueError(f"defences must be among {', '.join(names)}, got {name!r}")
    return [candidate for name in only for candidate in found if candidate.name == name]


def reconstructed(folder: Path) -> list[tuple[str, Path]]:
    """Name of each defence in a result folder, and the file of its reconstructions.

    Raises:
        ValueError: If it is no result folder.
    """
    results = folder / RESULTS
    if results.is_file() and "rows" in read_json(results):
        # The picture of a row lies beside the reconstructions that it shows.
        return [
            (row.name, (folder / row.picture).parent / RECONSTRUCTIONS)
            for row in read_results(results).rows
        ]
    for place in (folder, folder / "attack"):
        if (place / RECONSTRUCTIONS).is_file():
            return [(folder.resolve().name, place / RECONSTRUCTIONS)]
    raise ValueError(
        f"a result folder must be one of bido demo, bido sweep, bido run or bido attack, {folder} "
        f"holds neither {RESULTS} with rows nor {RECONSTRUCTIONS}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: If it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object")
    return content


def _load(name: str, file: Path) -> Candidate:
    found = load_reconstructions(file)
    return Candidate(name, found.images, tuple(found.classes))
