# SPDX-License-Identifier: Apache-2.0
"""Finds the folders of classes below a folder, and tells what of it is no class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .listing import READ, Skipped, images_below, images_in, is_hidden, subfolders
from .names import shown

_TRAIN, _TEST, _VAL = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")


def unwrapped(root: Path) -> Path:
    """``root``, or the folder of classes that it holds and nothing else, as archives unpack."""
    while not images_in(root):
        inner = subfolders(root)
        if len(inner) != 1 or images_in(inner[0]) or not subfolders(inner[0]):
            break
        root = inner[0]
    return root


def given_parts(root: Path, skipped: Skipped) -> tuple[Path, Path] | None:
    """The folders of training and of test images, where ``root`` holds such and nothing else.

    Images for validation serve as test images if there are no others, and are left out if there
    are: validation images are drawn from those for training.

    Raises:
        ValueError: Some folders are such parts and some are not.
    """
    parts = {
        folder.name.lower(): folder
        for folder in subfolders(root)
        if folder.name.lower() in (*_TRAIN, *_TEST, *_VAL) and not images_in(folder)
    }
    train, test, val = (
        [parts[name] for name in names if name in parts] for names in (_TRAIN, _TEST, _VAL)
    )
    if not train or not (test or val):
        return None
    others = [folder for folder in subfolders(root) if folder not in parts.values()]
    if others or max(map(len, (train, test, val))) > 1:
        strange = (others or train[1:] or test[1:] or val[1:])[0]
        raise ValueError(
            f"{shown(root)} must hold a training and a test folder, or one folder of images a "
            f"class; beside {train[0].name} it holds {shown(strange.name)}"
        )
    if test and val:
        left_out = images_below(val[0])
        skipped.add(
            "images for validation (these are drawn from the training images)",
            left_out[0] if left_out else val[0],
            len(left_out),
        )
    return train[0], (test or val)[0]


def class_folders(
    parents: Sequence[Path], skipped: Skipped, *, strict: bool = False
) -> dict[str, list[Path]]:
    """Images of each class, a folder each in ``parents``.

    Args:
        parents: Where the folders are.
        skipped: Told of all that is left out.
        strict: Refuse folders without images, rather than leave them out.

    Raises:
        ValueError: No class at all, or (``strict``) one without images.
    """
    people: dict[str, list[Path]] = {}
    empty: list[Path] = []
    for parent in parents:
        for stray in images_in(parent, skipped):
            skipped.add("images that lie in no folder of a class", stray)
        for folder in subfolders(parent):
            if files := images_in(folder, skipped):
                people[folder.name] = people.get(folder.name, []) + files
                for deeper in images_below(folder):
                    skipped.add("images in folders inside those of classes", deeper)
            else:
                empty.append(folder)
    if not people:
        raise ValueError(_nothing(parents[0]))
    if empty and strict:
        raise ValueError(
            f"every folder of --data is a class and must hold images, {shown(empty[0])} holds "
            f"{_content(empty[0])}; {READ}; remove the folder or move images into it"
        )
    for folder in empty:
        skipped.add(f"folders without images of their own ({READ})", folder)
    return people


def _is_parent(folder: Path) -> bool:
    return any(images_in(inner) for inner in subfolders(folder))


def _content(folder: Path) -> str:
    if deeper := images_below(folder):
        return f"{len(deeper)} one folder deeper or more, as {shown(deeper[0].relative_to(folder))}"
    names = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    return f"none, but {shown(names[0])}" if names else "nothing"


def _nothing(root: Path) -> str:
    text = f"--data must hold one folder of images a class, {shown(root)} holds none with images"
    deeper = next((folder for folder in subfolders(root) if _is_parent(folder)), None)
    if deeper is not None:
        return f"{text}; such folders lie in {shown(deeper)}: give that one"
    return f"{text}; {READ}"
