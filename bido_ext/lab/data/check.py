# SPDX-License-Identifier: Apache-2.0
"""Checks a data set on disk: counts, labels, what private and public share, unreadable files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .image_set import ImageSet
from .listing import Files, Listing, check_labels, shared_files
from .registry import DataConfig, find_dataset, listings, load_task

_SHOWN = 20
_CHUNK = 512


@dataclass(frozen=True)
class DataReport:
    """What a data set consists of, and what is wrong with it.

    Attributes:
        private, public: names of the data sets.
        counts: images in each part.
        num_classes: private classes.
        images_per_class: smallest and largest number of training images of a class.
        identities_known: whether the data set tells who the public images show.
        image_sizes: "width x height" -> number of files.
        published: numbers of the published split; empty: unknown, or another public set.
        problems: one sentence each; none: the data can be used.
    """

    private: str
    public: str
    counts: dict[str, int] = field(default_factory=dict)
    num_classes: int = 0
    images_per_class: tuple[int, int] = (0, 0)
    identities_known: bool = False
    image_sizes: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def check_data(config: DataConfig, *, quick: bool = False, progress: bool = False) -> DataReport:
    """Check what ``config`` names.

    Args:
        config: The data sets.
        quick: Read names and lists alone, no image.
        progress: Show a progress bar.

    Returns:
        The report; what cannot be listed at all is its one problem.
    """
    names = (config.private, config.public or config.private)
    if find_dataset(config.private).listing is None:
        return _check_arrays(config, names)
    try:
        private, public = listings(config)
        check_labels(private.train.labels, "the training images")
    except ValueError as error:
        return DataReport(*names, problems=(str(error),))
    problems = _shared(private, public, config.private)
    if not len(public.public) and (config.public or find_dataset(config.private).own_public):
        problems.append(f"{names[1]} has no public images; name another set with --public")
    sizes: Counter[str] = Counter()
    if not quick:
        found, sizes = _read_all(private, public.public, progress)
        problems += found
    per_class = Counter(private.train.labels).values()
    return DataReport(
        *names,
        counts={
            "train": len(private.train),
            "test": len(private.test),
            "public": len(public.public),
        },
        num_classes=len(private.class_names),
        images_per_class=(min(per_class), max(per_class)),
        identities_known=bool(private.train.identities and public.public.identities),
        image_sizes=dict(sizes.most_common(_SHOWN)),
        published=dict(find_dataset(config.private).published) if names[0] == names[1] else {},
        problems=tuple(problems),
    )


def check_public(
    name: str, root: Path | None, *, quick: bool = False, progress: bool = False
) -> DataReport:
    """Check a data set that is public only, as ``check_data`` does the others.

    Args:
        name: Key of ``DATASETS``.
        root: Its folder.
        quick: Read names alone, no image.
        progress: Show a progress bar.

    Returns:
        The report, about public images alone.

    Raises:
        ValueError: If ``root`` is missing, or the data set is no folder of image files.
    """
    listing = find_dataset(name).listing
    if listing is None or root is None:
        raise ValueError(f"FOLDER must name the folder of the data set {name!r}, got {root}")
    try:
        public = listing(root, 0).public
    except ValueError as error:
        return DataReport(name, name, problems=(str(error),))
    problems, sizes = ([], Counter()) if quick else _read_all(Listing(), public, progress)
    return DataReport(
        name,
        name,
        counts={"public": len(public)},
        image_sizes=dict(sizes.most_common(_SHOWN)),
        problems=tuple(problems),
    )


def _check_arrays(config: DataConfig, names: tuple[str, str]) -> DataReport:
    """Data sets that are no folders of files: they load or they do not."""
    try:
        task = load_task(config)
    except (ValueError, RuntimeError) as error:
        return DataReport(*names, problems=(str(error),))
    train = ImageSet.of(task.train)
    labels = train.labels.tolist()
    per_class = Counter(labels).values()
    height, width = train.shape[-2:]
    counts = {part: len(getattr(task, part)) for part in ("train", "val", "test", "public")}
    return DataReport(
        *names,
        counts=counts,
        num_classes=check_labels(labels, "the training images"),
        images_per_class=(min(per_class), max(per_class)),
        identities_known=True,
        image_sizes={f"{width} x {height}": sum(counts.values())},
    )


def _shared(private: Listing, public: Listing, name: str) -> list[str]:
    """What the parts have in common and must not."""
    problems = []
    mine = (*private.train.paths, *private.test.paths)
    for what, first, second in (
        ("training and test", private.train.paths, private.test.paths),
        ("private and public", mine, public.public.paths),
    ):
        if both := shared_files(first, second):
            problems.append(f"{what} images share {len(both)} files, as {both[0].name}")
    for part in (private.train, private.test):
        if twice := [path for path, n in Counter(part.paths).items() if n > 1]:
            problems.append(f"{len(twice)} files are listed twice, as {twice[0].name}")
    both_people = {*private.train.identities} & {*public.public.identities}
    if both_people:
        problems.append(
            f"{len(both_people)} private people of {name} are in the public set too, as "
            f"{sorted(both_people)[0]}"
        )
    missing = sorted(set(private.train.labels) - set(private.test.labels))
    if missing:
        problems.append(f"{len(missing)} classes have no test image, as label {missing[0]}")
    return problems


def _read_all(private: Listing, public: Files, progress: bool) -> tuple[list[str], Counter[str]]:
    """Decode every file: unreadable ones, equal contents across the parts, sizes."""
    parts: dict[str, Sequence[Path]] = {
        "training": private.train.paths,
        "test": private.test.paths,
        "public": public.paths,
    }
    sizes: Counter[str] = Counter()
    owners: dict[bytes, tuple[str, Path]] = {}
    unreadable, shared = [], []
    total = sum(map(len, parts.values()))
    with (
        ThreadPoolExecutor() as pool,
        tqdm(None, "checking images", total, disable=not progress) as bar,
    ):
        for part, paths in parts.items():
            for start in range(0, len(paths), _CHUNK):
                chunk = paths[start : start + _CHUNK]
                for path, (size, content) in zip(chunk, pool.map(_read, chunk), strict=True):
                    if isinstance(content, str):
                        unreadable.append(f"{path} is not a readable image ({content})")
                        continue
                    sizes[size] += 1
                    owner, other = owners.setdefault(content, (part, path))
                    if owner != part:
                        shared.append(
                            f"{part} image {path} has the very bytes of {owner} image {other}"
                        )
                bar.update(len(chunk))
    return _first(unreadable) + _first(shared), sizes


def _read(path: Path) -> tuple[str, bytes | str]:
    """Size and hash of a file, or the reason why it cannot be decoded to its end."""
    try:
        content = hashlib.sha256(path.read_bytes()).digest()
        with Image.open(path) as image:
            image.load()
            return f"{image.width} x {image.height}", content
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return "", str(error).replace(str(path), path.name)


def _first(problems: list[str]) -> list[str]:
    if len(problems) <= _SHOWN:
        return problems
    return [*problems[:_SHOWN], f"and {len(problems) - _SHOWN} more like the last"]
