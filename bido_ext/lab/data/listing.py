# SPDX-License-Identifier: Apache-2.0
"""What a data set on disk consists of, before any image is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .names import shown

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
READ = f"images end in {', '.join(SUFFIXES)}"


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
        skipped: what lies in the folder and is left out, and why: one sentence each.
    """

    train: Files = field(default_factory=Files)
    test: Files = field(default_factory=Files)
    public: Files = field(default_factory=Files)
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass
class Skipped:
    """Counts what is left out of a data set, by the reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Path] = field(default_factory=dict)

    def add(self, reason: str, example: Path, count: int = 1) -> None:
        """``count`` more of what ``reason`` says, as ``example``."""
        self.counts[reason] += count
        self.examples.setdefault(reason, example)

    def sentences(self) -> tuple[str, ...]:
        """One a reason."""
        return tuple(
            f"skipped {count} {reason}, as {shown(self.examples[reason])}"
            for reason, count in self.counts.items()
        )


def folder_of(root: Path) -> Path:
    """``root``, if it is a folder.

    Raises:
        ValueError: It is not.
    """
    if not root.is_dir():
        raise ValueError(f"--data must be a folder, {shown(root)} is none")
    return root


def is_hidden(name: str) -> bool:
    """Whether a name is of what systems put beside the data, as macOS ``._1.png``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def images_in(folder: Path, skipped: Skipped | None = None) -> list[Path]:
    """Image files directly in ``folder``, sorted by name; hidden files are left out.

    Args:
        folder: The folder.
        skipped: Told of the files that are no images by their suffix, or no files at all.
    """
    skipped = Skipped() if skipped is None else skipped
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name) or entry.is_dir():
                continue
            # A link to nothing stays listed: an image that is gone is an error.
            if not entry.is_file() and os.path.exists(entry.path):
                skipped.add("pipes or devices", folder / entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                names.append(entry.name)
            else:
                suffix = Path(entry.name).suffix.lower()
                ending = f"that end in {shown(suffix)}" if suffix else "without a suffix"
                skipped.add(f"files {ending} ({READ})", folder / entry.name)
    return [folder / name for name in in_order(names)]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in ``folder``, in the order of their labels."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
    return [folder / name for name in in_order(names)]


def images_below(folder: Path) -> list[Path]:
    """Images in folders inside ``folder``, at any depth, in the order of their paths."""
    found: list[Path] = []
    for inner in subfolders(folder):
        if not inner.is_symlink():  # a link may lead upwards
            found += [*images_in(inner), *images_below(inner)]
    return sorted(found)


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
    """Number of classes of ``labels``, which must be 0..n-1 with none left out, and at least 2.

    Raises:
        ValueError: They are not.
    """
    present = set(labels)
    if not present:
        raise ValueError(f"{where} lists no image")
    missing = sorted(set(range(max(present) + 1)) - present)
    if min(present) < 0 or missing:
        what = f"{missing[0]} has no image" if missing else ""
        if min(present) < 0:
            what = f"{min(present)} is given"
        elif min(present) == 1 and missing == [0]:
            what = "they start at 1; subtract 1 from each, in the list of the test images too"
        raise ValueError(f"labels in {where} must be 0..n-1 with an image each, but {what}")
    if len(present) < 2:
        raise ValueError(f"there must be at least 2 classes to tell apart, {where} has 1")
    return len(present)
