# SPDX-License-Identifier: Apache-2.0
"""Opens every image of a data set: what cannot be used, what is there twice, what is changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from .decode import decode
from .listing import Files, Listing, Skipped
from .names import shown

_CHUNK = 512


@dataclass
class FileReport:
    """What opening every file told.

    Attributes:
        sizes: "width x height", as they are looked at -> number of files.
        unusable: files that loading would refuse, one sentence each.
        shared: images that are in two parts, or in two classes, one sentence each.
        changed: counts what reading makes another image of.
    """

    sizes: Counter[str] = field(default_factory=Counter)
    unusable: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    changed: Skipped = field(default_factory=Skipped)

    def problems(self, most: int) -> list[str]:
        """Both kinds, ``most`` of each."""
        return _first(self.unusable, most) + _first(self.shared, most)

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of change."""
        return tuple(
            f"{count} {reason}, as {shown(self.changed.examples[reason])}"
            for reason, count in self.changed.counts.items()
        )


@dataclass(frozen=True)
class _Image:
    """One file in its place; ``label`` is None for public images."""

    part: str
    path: Path
    label: int | None
    crop: int


@dataclass(frozen=True)
class _Content:
    size: tuple[int, int]
    digest: bytes
    transparent: bool
    frames: int


def read_all(
    private: Listing, public: Files, crop: int, public_crop: int, *, progress: bool
) -> FileReport:
    """Decode every file.

    Args:
        private: Listing of the private data set.
        public: The public images.
        crop, public_crop: sides of the squares that are cut from private and public images.
        progress: Show a progress bar.
    """
    images = [
        *_images("training", private.train, crop),
        *_images("test", private.test, crop),
        *_images("public", public, public_crop),
    ]
    report = FileReport()
    owners: dict[bytes, _Image] = {}
    with (
        ThreadPoolExecutor() as pool,
        tqdm(None, "checking images", len(images), disable=not progress) as bar,
    ):
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            for image, content in zip(chunk, pool.map(_read, chunk), strict=True):
                if isinstance(content, str):
                    report.unusable.append(content)
                    continue
                report.sizes[f"{content.size[0]} x {content.size[1]}"] += 1
                _note(report, image, content)
                _compare(report, image, owners.setdefault(content.digest, image))
            bar.update(len(chunk))
    return report


def _images(part: str, files: Files, crop: int) -> Iterator[_Image]:
    for i, path in enumerate(files.paths):
        yield _Image(part, path, files.labels[i] if files.labels else None, crop)


def _read(image: _Image) -> _Content | str:
    """What a file holds, or the sentence why it cannot be used."""
    try:
        decoded = decode(image.path)
        digest = hashlib.sha256(image.path.read_bytes()).digest()
    except (ValueError, OSError) as error:
        return str(error)
    width, height = decoded.image.size
    if image.crop > min(width, height):
        return (
            f"{shown(image.path)} has {width} x {height} pixels, the crop of {image.crop} does not "
            "fit into it"
        )
    return _Content((width, height), digest, decoded.transparent, decoded.frames)


def _note(report: FileReport, image: _Image, content: _Content) -> None:
    if content.transparent:
        report.changed.add("images with transparent parts, which are laid on white", image.path)
    if content.frames > 1:
        report.changed.add("files of several pictures, of which the first is read", image.path)


def _compare(report: FileReport, image: _Image, owner: _Image) -> None:
    if owner.part != image.part:
        report.shared.append(
            f"{image.part} image {shown(image.path)} has the very bytes of {owner.part} image "
            f"{shown(owner.path)}"
        )
    elif owner.label != image.label:
        report.shared.append(
            f"{image.part} image {shown(image.path)} of label {image.label} has the very bytes of "
            f"{shown(owner.path)} of label {owner.label}"
        )
    elif owner is not image:
        report.changed.add("images that are copies of another one", image.path)


def _first(problems: list[str], most: int) -> list[str]:
    if len(problems) <= most:
        return problems
    return [*problems[:most], f"and {len(problems) - most} more like the last"]
