# SPDX-License-Identifier: Apache-2.0
"""What a data set on disk consists of, before any image is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Files:
    """Image files with what is known of them.

    Attributes:
        paths: the files.
        labels: class of each file; empty for public images.
        identities: who each file shows, where the data set tells; empty where it does not.
    """

    paths: tuple[Path, ...] = ()
    labels: tuple[int, ...] = ()
    identities: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Listing:
    """The parts of one data set.

    Attributes:
        train, test: private images; empty where the data set is public only.
        public: images of other people, for the attacker.
        class_names: name of each label.
    """

    train: Files = field(default_factory=Files)
    test: Files = field(default_factory=Files)
    public: Files = field(default_factory=Files)
    class_names: tuple[str, ...] = ()


def folder_of(root: Path) -> Path:
    """``root``, if it is a folder.

    Raises:
        ValueError: It is not.
    """
    if not root.is_dir():
        raise ValueError(f"--data must be a folder, {root} is none")
    return root


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, sorted by name; hidden files are left out."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(SUFFIXES)
        ]
    return [folder / name for name in in_order(names)]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in ``folder``, in the order of their labels."""
    names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [folder / name for name in in_order(names)]


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted; numbers by value, so that folder "10" does not come before folder "2"."""
    names = list(names)
    if all(Path(name).stem.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(Path(name).stem), name))
    return sorted(names)


def shared_files(first: Iterable[Path], second: Iterable[Path]) -> list[Path]:
    """Files of ``first`` that ``second`` names too, however the paths are written, sorted."""
    others = {os.path.realpath(path) for path in second}
    return sorted({path for path in first if os.path.realpath(path) in others})


def check_labels(labels: Sequence[int], where: str) -> int:
    """Number of classes of ``labels``, which must be 0..n-1 with none left out.

    Raises:
        ValueError: They are not.
    """
    present = set(labels)
    if not present:
        raise ValueError(f"{where} lists no image")
    missing = sorted(set(range(max(present) + 1)) - present)
    if min(present) < 0 or missing:
        what = f"{min(present)} is given" if min(present) < 0 else f"{missing[0]} has no image"
        raise ValueError(f"labels in {where} must be 0..n-1 with an image each, but {what}")
    return len(present)
