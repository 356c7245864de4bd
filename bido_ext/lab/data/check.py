# SPDX-License-Identifier: Apache-2.0
"""Checks a data set on disk: counts, labels, what private and public share, unreadable files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .check_files import FileReport, read_all
from .image_set import ImageSet
from .listing import Listing, check_labels, shared_files
from .names import shown
from .registry import DataConfig, find_dataset, listings, load_task

_SHOWN = 20


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
        notes: what is left out or changed on reading, one sentence each.
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
    notes: tuple[str, ...] = ()


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
        return DataReport(*names, problems=(shown(str(error)),))
    problems = _shared(private, public, config.private)
    if not len(public.public) and (config.public or find_dataset(config.private).own_public):
        problems.append(f"{names[1]} has no public images; name another set with --public")
    found = FileReport()
    if not quick:
        spec, other = find_dataset(config.private), find_dataset(names[1])
        own_crop = spec.crop if config.crop is None else config.crop
        crop = own_crop if other is spec else other.crop
        found = read_all(private, public.public, own_crop, crop, progress=progress)
        problems += found.problems(_SHOWN)
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
        image_sizes=dict(found.sizes.most_common(_SHOWN)),
        published=dict(find_dataset(config.private).published) if names[0] == names[1] else {},
        problems=tuple(problems),
        notes=tuple(dict.fromkeys((*private.skipped, *public.skipped, *found.notes()))),
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
    spec = find_dataset(name)
    if spec.listing is None or root is None:
        raise ValueError(f"FOLDER must name the folder of the data set {name!r}, got {root}")
    try:
        listed = spec.listing(root, 0)
    except ValueError as error:
        return DataReport(name, name, problems=(shown(str(error)),))
    found = FileReport()
    if not quick:
        found = read_all(Listing(), listed.public, spec.crop, spec.crop, progress=progress)
    return DataReport(
        name,
        name,
        counts={"public": len(listed.public)},
        image_sizes=dict(found.sizes.most_common(_SHOWN)),
        problems=tuple(found.problems(_SHOWN)),
        notes=(*listed.skipped, *found.notes()),
    )


def _check_arrays(config: DataConfig, names: tuple[str, str]) -> DataReport:
    """Data sets that are no folders of files: they load or they do not."""
    try:
        task = load_task(config)
    except (ValueError, RuntimeError) as error:
        return DataReport(*names, problems=(shown(str(error)),))
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
            problems.append(f"{what} images share {len(both)} files, as {shown(both[0].name)}")
    for part in (private.train, private.test):
        if twice := [path for path, n in Counter(part.paths).items() if n > 1]:
            problems.append(f"{len(twice)} files are listed twice, as {shown(twice[0].name)}")
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
