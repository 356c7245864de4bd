# SPDX-License-Identifier: Apache-2.0
"""CelebA: by the lists of the GMI line of work, or the 1000 most frequent identities."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from .listing import READ, Files, Listing, Skipped, check_labels, folder_of, images_in
from .names import shown
from .text_lists import read_rows

LISTS = {"train": "trainset.txt", "test": "testset.txt", "public": "ganset.txt"}
IDENTITIES = "identity_CelebA.txt"
NUM_IDENTITIES = 1000
_IMAGE_FOLDERS = (
    "img_align_celeba",
    "img_align_celeba/img_align_celeba",
    "img_align_celeba_png",
    "Img/img_align_celeba",
    ".",
)
_LIST_FOLDERS = (".", "lists", "split", "Anno")


def celeba(root: Path, seed: int) -> Listing:
    """The private identities and the public images in ``root``.

    With the lists ``trainset.txt``, ``testset.txt`` ("name label" a line) and ``ganset.txt``
    ("name" a line; public) these decide, and ``seed`` has no influence. Else ``identity_CelebA.txt``
    ("name identity") does: its 1000 most frequent identities are private, a tenth of each for
    testing, everybody else is public. Lists name .png or .jpg, the folder may hold either.
    """
    root = folder_of(root)
    skipped = Skipped()
    images = _Images(root, skipped)
    people = _identities(root)
    if all((lists := {part: _find(root, name) for part, name in LISTS.items()}).values()):
        train, test = (_labelled(lists[part], images, people) for part in ("train", "test"))
        classes = check_labels(train.labels, LISTS["train"])
        if strange := sorted(set(test.labels) - set(train.labels)):
            raise ValueError(f"{LISTS['test']} has label {strange[0]}, {LISTS['train']} has not")
        assert lists["public"] is not None
        names = [row[0] for _, row in read_rows(lists["public"], '"name"', (1, 2))]
        files = tuple(images.named(name, LISTS["public"]) for name in names)
        public = Files(files, (), _who(names, people))
        class_names = tuple(map(str, range(classes)))
        return Listing(train, test, public, class_names, skipped.sentences())
    if not people:
        raise ValueError(
            f"--data must hold {', '.join(LISTS.values())} or {IDENTITIES}, {shown(root)} holds "
            "neither"
        )
    return _most_frequent(images, people, seed, skipped)


def _most_frequent(images: _Images, people: dict[str, str], seed: int, skipped: Skipped) -> Listing:
    by_identity: dict[str, list[str]] = defaultdict(list)
    files: dict[str, Path] = {}
    for stem, identity in people.items():
        if stem in images:  # the aligned download may be partial
            by_identity[identity].append(stem)
            files[stem] = images.named(stem, IDENTITIES)
        else:
            skipped.add(f"lines of {IDENTITIES} whose images are not there", Path(stem))
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
            tuple(files[stem] for stem, _, _ in part),
            tuple(label for _, label, _ in part),
            tuple(who for _, _, who in part),
        )
        for part in (train, test)
    ]
    check_labels(parts[0].labels, IDENTITIES)
    public = Files(tuple(files[stem] for stem, _ in others), (), tuple(who for _, who in others))
    return Listing(parts[0], parts[1], public, tuple(private), skipped.sentences())


def _labelled(path: Path | None, images: _Images, people: dict[str, str]) -> Files:
    assert path is not None  # the caller found it
    names, labels = [], []
    for number, (name, label) in read_rows(path, '"name label"', (2,)):
        if not label.isdecimal():
            raise ValueError(
                f"{shown(path)} line {number}: the label must be a number, got {label!r}"
            )
        names.append(name)
        labels.append(int(label))
    files = tuple(images.named(name, path.name) for name in names)
    return Files(files, tuple(labels), _who(names, people))


def _who(names: list[str], people: dict[str, str]) -> tuple[str, ...]:
    stems = [Path(name).stem for name in names]
    return tuple(people[s] for s in stems) if all(s in people for s in stems) else ()


def _identities(root: Path) -> dict[str, str]:
    people: dict[str, str] = {}
    if (path := _find(root, IDENTITIES)) is not None:
        for number, (name, who) in read_rows(path, '"name identity"', (2,)):
            where = f"{shown(path)} line {number}"
            if not who.isdecimal():
                raise ValueError(f"{where}: the identity must be a number, got {who!r}")
            if people.setdefault(Path(name).stem, who) != who:
                raise ValueError(f"{where}: {name} has an identity already, another than {who}")
    return people


def _find(root: Path, name: str) -> Path | None:
    places = (root / folder / name for folder in _LIST_FOLDERS)
    return next((path for path in places if path.is_file()), None)


class _Images:
    """The image files in ``root``, by the names that lists call them."""

    def __init__(self, root: Path, skipped: Skipped) -> None:
        for folder in (root / name for name in _IMAGE_FOLDERS):
            beside = skipped if folder != root else None  # the lists lie beside the images there
            if folder.is_dir() and (found := images_in(folder, beside)):
                break
        else:
            places = ", ".join(_IMAGE_FOLDERS[:-1])
            raise ValueError(
                f"--data must hold the images in {places} or directly, {shown(root)} holds none; "
                f"{READ}"
            )
        self._by_name = {path.name: path for path in found}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in found:
            self._by_stem[path.stem].append(path)

    def __contains__(self, stem: str) -> bool:
        return stem in self._by_stem

    def named(self, name: str, listed_in: str) -> Path:
        """The file of a name whose suffix may be another on disk."""
        if (path := self._by_name.get(Path(name).name)) is not None:
            return path
        candidates = self._by_stem.get(Path(name).stem, [])
        if not candidates:
            raise ValueError(f"{listed_in} names {name}, of which there is no .png or .jpg")
        if len(candidates) > 1:
            raise ValueError(
                f"{listed_in} names {name}, which may be {shown(candidates[0].name)} or "
                f"{shown(candidates[1].name)}; remove one of them"
            )
        return candidates[0]
