# SPDX-License-Identifier: Apache-2.0
"""CelebA: by the lists of the GMI line of work, or the 1000 most frequent identities."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from .listing import SUFFIXES, Files, Listing, check_labels, folder_of

LISTS = {"train": "trainset.txt", "test": "testset.txt", "public": "ganset.txt"}
IDENTITIES = "identity_CelebA.txt"
NUM_IDENTITIES = 1000
_IMAGE_FOLDERS = ("img_align_celeba", "img_align_celeba_png", "Img/img_align_celeba", ".")
_LIST_FOLDERS = (".", "lists", "split", "Anno")


def celeba(root: Path, seed: int) -> Listing:
    """The private identities and the public images in ``root``.

    With the lists ``trainset.txt``, ``testset.txt`` ("name label" a line) and ``ganset.txt``
    ("name" a line; public) these decide, and ``seed`` has no influence. Else ``identity_CelebA.txt``
    ("name identity") does: its 1000 most frequent identities are private, a tenth of each for
    testing, everybody else is public. Lists name .png or .jpg, the folder may hold either.
    """
    root = folder_of(root)
    images = _images_by_stem(root)
    people = _identities(root)
    if all((lists := {part: _find(root, name) for part, name in LISTS.items()}).values()):
        train, test = (_labelled(lists[part], images, people) for part in ("train", "test"))
        classes = check_labels(train.labels, LISTS["train"])
        if strange := sorted(set(test.labels) - set(train.labels)):
            raise ValueError(f"{LISTS['test']} has label {strange[0]}, {LISTS['train']} has not")
        names = [row[0] for row in _rows(lists["public"], (1, 2))]
        public = Files(
            tuple(_file(name, images, LISTS["public"]) for name in names), (), _who(names, people)
        )
        return Listing(train, test, public, tuple(map(str, range(classes))))
    if not people:
        raise ValueError(
            f"--data must hold {', '.join(LISTS.values())} or {IDENTITIES}, {root} holds neither"
        )
    return _most_frequent(images, people, seed)


def _most_frequent(images: dict[str, Path], people: dict[str, str], seed: int) -> Listing:
    by_identity: dict[str, list[str]] = defaultdict(list)
    for stem, identity in people.items():
        if stem in images:  # the aligned download may be partial
            by_identity[identity].append(stem)
    ranked = sorted(by_identity, key=lambda who: (-len(by_identity[who]), int(who)))
    private = sorted(ranked[:NUM_IDENTITIES], key=int)
    train, test = [], []
    for label, who in enumerate(private):
        stems = sorted(by_identity[who])
        shuffled = random.Random(f"{seed}:{who}").sample(stems, len(stems))
        held_out = max(1, round(0.1 * len(stems)))
        test += [(stem, label, who) for stem in shuffled[:held_out]]
        train += [(stem, label, who) for stem in shuffled[held_out:]]
    others = [(stem, who) for who in ranked[NUM_IDENTITIES:] for stem in by_identity[who]]
    parts = [
        Files(
            tuple(images[stem] for stem, _, _ in part),
            tuple(label for _, label, _ in part),
            tuple(who for _, _, who in part),
        )
        for part in (train, test)
    ]
    check_labels(parts[0].labels, IDENTITIES)
    public = Files(tuple(images[stem] for stem, _ in others), (), tuple(who for _, who in others))
    return Listing(parts[0], parts[1], public, tuple(private))


def _labelled(path: Path | None, images: dict[str, Path], people: dict[str, str]) -> Files:
    assert path is not None  # the caller found it
    names, labels = [], []
    for number, (name, label) in enumerate(_rows(path, (2,)), 1):
        if not label.isdecimal():
            raise ValueError(f"{path} line {number}: the label must be a number, got {label!r}")
        names.append(name)
        labels.append(int(label))
    files = tuple(_file(name, images, path.name) for name in names)
    return Files(files, tuple(labels), _who(names, people))


def _rows(path: Path | None, columns: tuple[int, ...]) -> list[list[str]]:
    assert path is not None  # the caller found it
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = line.split()
        if len(row) not in columns:
            wanted = '"name label"' if 2 in columns and 1 not in columns else '"name"'
            raise ValueError(f"{path} line {number}: expected {wanted}, got {line.strip()!r}")
        rows.append(row)
    return rows


def _who(names: list[str], people: dict[str, str]) -> tuple[str, ...]:
    stems = [Path(name).stem for name in names]
    return tuple(people[s] for s in stems) if all(s in people for s in stems) else ()


def _identities(root: Path) -> dict[str, str]:
    path = _find(root, IDENTITIES)
    return {} if path is None else {Path(row[0]).stem: row[1] for row in _rows(path, (2,))}


def _find(root: Path, name: str) -> Path | None:
    places = (root / folder / name for folder in _LIST_FOLDERS)
    return next((path for path in places if path.is_file()), None)


def _images_by_stem(root: Path) -> dict[str, Path]:
    for folder in (root / name for name in _IMAGE_FOLDERS):
        if folder.is_dir():
            found = {p.stem: p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES}
            if found:
                return found
    raise ValueError(f"--data must hold the images in {_IMAGE_FOLDERS[0]}, {root} holds none")


def _file(name: str, images: dict[str, Path], listed_in: str) -> Path:
    if (path := images.get(Path(name).stem)) is None:
        raise ValueError(f"{listed_in} names {name}, of which there is no .png or .jpg")
    return path
