# SPDX-License-Identifier: Apache-2.0
"""Data sets with one folder of images a person: LFW, FaceScrub, anybody's own."""

from __future__ import annotations

import os
import random
from pathlib import Path

from .class_folders import class_folders, given_parts, unwrapped
from .listing import Files, Listing, Skipped, folder_of
from .names import shown

People = dict[str, list[Path]]


def lfw(root: Path, seed: int) -> Listing:
    """LFW: people with at least 20 images are private, 60 images each at most; the rest is public.

    A private person with hundreds of images would dominate training and the judgement.
    """
    root = folder_of(root)
    inner = root / "lfwcrop64"
    skipped = Skipped()
    people = class_folders([unwrapped(inner if inner.is_dir() else root)], skipped)
    private = {name: files for name, files in people.items() if len(files) >= 20}
    public = {name: files for name, files in people.items() if len(files) < 20}
    return _split(private, public, skipped, test_share=0.2, most=60, seed=seed)


def facescrub(root: Path, seed: int) -> Listing:
    """FaceScrub: every person is a class, a tenth of the images of each is for testing.

    As ``actors/faces`` and ``actresses/faces`` (the crops of the usual download script), or with
    the people directly in ``root``. The download is rarely whole: people with one image are left
    out. The same images serve as a public set for another private one.
    """
    root = folder_of(root)
    skipped = Skipped()
    crops = [path for path in (root / "actors/faces", root / "actresses/faces") if path.is_dir()]
    people = class_folders(crops or [unwrapped(root)], skipped)
    for files in people.values():
        if len(files) == 1:
            skipped.add("people with one image alone", files[0])
    people = {name: files for name, files in people.items() if len(files) > 1}
    return _split(people, people, skipped, test_share=0.1, most=None, seed=seed)


def folders(root: Path, seed: int) -> Listing:
    """One folder a class, a fifth of the images of each for testing; no public part.

    Where ``root`` holds ``train`` and ``test`` (or ``val``) with the classes inside, these decide,
    and ``seed`` has no influence.
    """
    root, skipped = unwrapped(folder_of(root)), Skipped()
    parts = given_parts(root, skipped)
    if parts is None:
        people = class_folders([root], skipped, strict=True)
        return _split(people, people, skipped, test_share=0.2, most=None, seed=seed)
    train, test = (class_folders([part], skipped, strict=True) for part in parts)
    if strange := [name for name in test if name not in train]:
        raise ValueError(
            f"{shown(parts[1])} has the class {shown(strange[0])}, {shown(parts[0])} has not"
        )
    labels = {name: label for label, name in enumerate(train)}
    files = [
        Files(*_columns([(p, labels[name], name) for name in part for p in part[name]]))
        for part in (train, test)
    ]
    everything = {name: train[name] + test.get(name, []) for name in train}
    names = tuple(map(shown, train))
    return Listing(files[0], files[1], _as_public(everything), names, skipped.sentences())


def _split(
    private: People,
    public: People,
    skipped: Skipped,
    *,
    test_share: float,
    most: int | None,
    seed: int,
) -> Listing:
    parts: dict[str, list[tuple[Path, int, str]]] = {"train": [], "test": []}
    for label, (name, files) in enumerate(private.items()):
        if len(files) < 2:
            raise ValueError(
                f"a private class needs at least 2 images, to train and to test: {shown(name)} has "
                "one"
            )
        # A stream of its own a person: another person's images do not change this split. As bytes,
        # since names on disk need not be UTF-8; the stream is that of the text where they are.
        stream = random.Random(os.fsencode(f"{seed}:{name}"))
        shuffled = stream.sample(files, len(files))[:most]
        held_out = max(1, round(test_share * len(shuffled)))
        parts["test"] += [(path, label, name) for path in shuffled[:held_out]]
        parts["train"] += [(path, label, name) for path in shuffled[held_out:]]
    train, test = (Files(*_columns(parts[part])) for part in ("train", "test"))
    names = tuple(map(shown, private))
    return Listing(train, test, _as_public(public), names, skipped.sentences())


def _as_public(people: People) -> Files:
    pairs = [(path, shown(name)) for name, files in people.items() for path in files]
    return Files(tuple(path for path, _ in pairs), (), tuple(name for _, name in pairs))


def _columns(
    rows: list[tuple[Path, int, str]],
) -> tuple[tuple[Path, ...], tuple[int, ...], tuple[str, ...]]:
    rows = sorted(rows, key=lambda row: (row[1], row[0].name))
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(shown(r[2]) for r in rows)
