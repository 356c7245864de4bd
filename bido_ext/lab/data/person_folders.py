# SPDX-License-Identifier: Apache-2.0
"""Data sets with one folder of images a person: LFW, FaceScrub, anybody's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from .listing import Files, Listing, folder_of, images_in, subfolders


def lfw(root: Path, seed: int) -> Listing:
    """LFW: people with at least 20 images are private, 60 images each at most; the rest is public.

    A private person with hundreds of images would dominate training and the judgement.
    """
    root = folder_of(root)
    inner = root / "lfwcrop64"
    people = _people([inner if inner.is_dir() else root])
    private = {name: files for name, files in people.items() if len(files) >= 20}
    public = {name: files for name, files in people.items() if len(files) < 20}
    return _split(private, public, test_share=0.2, most=60, seed=seed)


def facescrub(root: Path, seed: int) -> Listing:
    """FaceScrub: every person is a class, a tenth of the images of each is for testing.

    As ``actors/faces`` and ``actresses/faces`` (the crops of the usual download script), or with
    the people directly in ``root``. The download is rarely whole: people with one image are left
    out. The same images serve as a public set for another private one.
    """
    root = folder_of(root)
    crops = [path for path in (root / "actors/faces", root / "actresses/faces") if path.is_dir()]
    people = _people(crops or [root])
    people = {name: files for name, files in people.items() if len(files) > 1}
    split = _split(people, {}, test_share=0.1, most=None, seed=seed)
    return Listing(split.train, split.test, _as_public(people), split.class_names)


def folders(root: Path, seed: int) -> Listing:
    """One folder a class, a fifth of the images of each for testing; no public part."""
    people = _people([folder_of(root)])
    split = _split(people, {}, test_share=0.2, most=None, seed=seed)
    return Listing(split.train, split.test, _as_public(people), split.class_names)


def _people(parents: Sequence[Path]) -> dict[str, list[Path]]:
    people: dict[str, list[Path]] = {}
    for parent in parents:
        for folder in subfolders(parent):
            if files := images_in(folder):
                people[folder.name] = people.get(folder.name, []) + files
    if not people:
        raise ValueError(
            f"--data must hold one folder of images a person, {parents[0]} holds none with images"
        )
    return people


def _split(
    private: dict[str, list[Path]],
    public: dict[str, list[Path]],
    *,
    test_share: float,
    most: int | None,
    seed: int,
) -> Listing:
    parts: dict[str, list[tuple[Path, int, str]]] = {"train": [], "test": []}
    for label, (name, files) in enumerate(private.items()):
        if len(files) < 2:
            raise ValueError(
                f"a private class needs at least 2 images, to train and to test: {name} has one"
            )
        # A stream of its own a person: another person's images do not change this split.
        shuffled = random.Random(f"{seed}:{name}").sample(files, len(files))[:most]
        held_out = max(1, round(test_share * len(shuffled)))
        parts["test"] += [(path, label, name) for path in shuffled[:held_out]]
        parts["train"] += [(path, label, name) for path in shuffled[held_out:]]
    train, test = (Files(*_columns(parts[part])) for part in ("train", "test"))
    return Listing(train, test, _as_public(public), tuple(private))


def _as_public(people: dict[str, list[Path]]) -> Files:
    pairs = [(path, name) for name, files in people.items() for path in files]
    return Files(tuple(path for path, _ in pairs), (), tuple(name for _, name in pairs))


def _columns(
    rows: list[tuple[Path, int, str]],
) -> tuple[tuple[Path, ...], tuple[int, ...], tuple[str, ...]]:
    rows = sorted(rows, key=lambda row: (row[1], row[0].name))
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows)
