# SPDX-License-Identifier: Apache-2.0
"""Private and public faces: who is attacked, and what the attacker may look at."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHA256 = "a319d07836edc262c7da6188d13b8fd3083759290a52ad6dd09ccc076da1e22f"
LEAST_IMAGES = 20  # of a private person
MOST_IMAGES = 60  # kept of one private person, so that none dominates
TEST_SHARE = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Faces:
    """The sets of the experiment; images are uint8 (n, 3, 64, 64).

    Attributes:
        people: Name of each private label; labels follow the sorted names.
        train, train_labels: Private images that classifiers are trained on.
        test, test_labels: Private images that measure natural accuracy and the judge.
        public: Images of other people, without labels: the attacker's.
    """

    people: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    public: Tensor


def load_faces(path: Path) -> Faces:
    """Read the LFWcrop archive and split it.

    Raises:
        ValueError: If the archive is absent or not the one the protocol names.
    """
    if not path.is_file():
        raise ValueError(f"data must be the LFWcrop archive, there is no file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"data must have the SHA-256 {SHA256}, {path} has {digest}")
    by_person: dict[str, list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".jpg"):
                by_person.setdefault(PurePosixPath(name).parent.name, []).append(name)
        private, public = split_people(by_person)
        people = tuple(private)
        parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        labels: dict[str, list[int]] = {"train": [], "test": []}
        for label, splits in enumerate(private.values()):
            for split, names in splits.items():
                parts[split] += [_pixels(archive, name) for name in names]
                labels[split] += [label] * len(names)
        others = np.stack([_pixels(archive, name) for name in public])
    pixels = {split: torch.from_numpy(np.stack(images)) for split, images in parts.items()}
    return Faces(
        people,
        pixels["train"],
        torch.tensor(labels["train"]),
        pixels["test"],
        torch.tensor(labels["test"]),
        torch.from_numpy(others),
    )


def split_people(
    by_person: dict[str, list[str]],
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Private people with their train and test files, and the files of all other people."""
    random = np.random.default_rng(SPLIT_SEED)
    private: dict[str, dict[str, list[str]]] = {}
    public: list[str] = []
    for person in sorted(by_person):
        files = sorted(by_person[person])
        if len(files) < LEAST_IMAGES:
            public += files
            continue
        chosen = [files[i] for i in random.permutation(len(files))[:MOST_IMAGES]]
        held_out = round(TEST_SHARE * len(chosen))
        private[person] = {"train": sorted(chosen[held_out:]), "test": sorted(chosen[:held_out])}
    return private, public


def as_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], channels last in memory."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def _pixels(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(archive.read(name))) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
