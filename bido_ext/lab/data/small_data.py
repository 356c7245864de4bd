# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets on disk in the formats of the real ones, for smoke runs and tests.

Every class has a colour pattern of its own, with noise: they exercise the whole path and say
nothing about any defence.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bido_ext.lab.data import cifar10 as cifar


def write_small(
    name: str, root: Path, *, classes: int = 4, images: int = 10, public: int = 24, seed: int = 0
) -> Path:
    """Write a tiny data set ``name`` into ``root``.

    Args:
        name: Key of ``DATASETS`` that is read from a folder.
        root: Folder, made if missing.
        classes: Private classes (CIFAR-10 has its ten).
        images: Private images of each.
        public: Public images.
        seed: Of the pictures.

    Returns:
        ``root``.

    Raises:
        ValueError: If that data set has no such files.
    """
    if name not in _WRITERS:
        raise ValueError(f"small data can be one of {', '.join(_WRITERS)}, got {name!r}")
    root.mkdir(parents=True, exist_ok=True)
    _WRITERS[name](root, classes, images, public, np.random.default_rng(seed))
    return root


def _celeba(
    root: Path, classes: int, images: int, public: int, random: np.random.Generator
) -> None:
    folder = root / "img_align_celeba"
    lists: dict[str, list[str]] = {"trainset.txt": [], "testset.txt": [], "ganset.txt": []}
    identities: list[str] = []
    owners = [label for label in range(classes) for _ in range(images)]
    everybody = owners + [classes + i // 4 for i in range(public)]
    for number, label in enumerate(everybody, 1):
        stem = f"{number:06d}"
        _save(folder / f"{stem}.jpg", _picture(label, (218, 178), random))
        identities.append(f"{stem}.jpg {label + 1}")
        if label >= classes:
            lists["ganset.txt"].append(f"{stem}.png")  # lists and images may differ in this
        else:
            last = number % images == 0
            lists["testset.txt" if last else "trainset.txt"].append(f"{stem}.png {label}")
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(identities) + "\n")


def _people(folder: Path, counts: list[int], size: int, random: np.random.Generator) -> None:
    for label, count in enumerate(counts):
        name = f"Person_{label:02d}"
        for i in range(1, count + 1):
            picture = _picture(label, (size, size), random)
            _save(folder / name / f"{name}_{i:04d}.jpg", picture)


def _lfw(root: Path, classes: int, images: int, public: int, random: np.random.Generator) -> None:
    private = [max(images, 20)] * classes  # fewer make a person public
    _people(root / "lfwcrop64", [*private, *[4] * (-(-public // 4))], 64, random)


def _facescrub(
    root: Path, classes: int, images: int, public: int, random: np.random.Generator
) -> None:
    _people(root / "actors" / "faces", [images] * classes, 64, random)


def _folders(
    root: Path, classes: int, images: int, public: int, random: np.random.Generator
) -> None:
    _people(root, [images] * classes, 64, random)


def _ffhq(root: Path, classes: int, images: int, public: int, random: np.random.Generator) -> None:
    for i in range(public):
        _save(root / "00000" / f"{i:05d}.png", _picture(100 + i // 4, (128, 128), random))


def _cifar10(
    root: Path, classes: int, images: int, public: int, random: np.random.Generator
) -> None:
    folder = root / cifar.FOLDER
    folder.mkdir(exist_ok=True)
    for name in (*cifar.TRAIN, *cifar.TEST):
        labels = list(range(10)) * max(1, images // 5)
        rows = [_picture(label, (32, 32), random).transpose(2, 0, 1).ravel() for label in labels]
        with (folder / name).open("wb") as file:
            pickle.dump({"data": np.stack(rows), "labels": labels}, file, protocol=4)


_WRITERS: dict[str, Callable[[Path, int, int, int, np.random.Generator], None]] = {
    "celeba": _celeba,
    "cifar10": _cifar10,
    "facescrub": _facescrub,
    "ffhq": _ffhq,
    "folders": _folders,
    "lfw": _lfw,
}


def _picture(label: int, size: tuple[int, int], random: np.random.Generator) -> NDArray[np.uint8]:
    """Waves whose direction, frequency and colours belong to the label, with noise."""
    own = np.random.default_rng(1000 + label)
    half = [-(-n // 2) for n in size]  # every pixel twice: a quarter of the arithmetic
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in half), indexing="ij")
    frequency, phase = own.uniform(1, 6, (2, 3)), own.uniform(0, 6, 3)
    waves = np.sin(frequency[0] * rows[..., None] + frequency[1] * columns[..., None] + phase)
    pixels = 127 + 90 * waves + random.normal(0, 12, (*half, 3))
    doubled = pixels.clip(0, 255).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    return doubled[: size[0], : size[1]]


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
