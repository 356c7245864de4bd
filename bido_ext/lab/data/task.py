# SPDX-License-Identifier: Apache-2.0
"""The sets of an experiment on images from files or arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .decode import Preparation
from .image_cache import decoded
from .image_set import ImageSet
from .listing import Listing, check_labels, shared_files
from .names import shown


@dataclass(frozen=True)
class ImageTask:
    """Private set, public set and the evaluation classifier's set.

    Attributes:
        train, val, test: private images with labels; ``val`` selects the model.
        public: images of other people or classes: all the attacker's generator may see; may be
            empty, and nothing can be attacked then.
        judge_train, judge_test: for the evaluation classifier alone.
        num_classes: private classes.
        judge_classes: classes that the evaluation classifier tells apart.
        class_names: name of each private class.
        digest: hash of all pixels and labels.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    public: ImageSet
    judge_train: ImageSet
    judge_test: ImageSet
    num_classes: int
    judge_classes: int
    class_names: tuple[str, ...]
    digest: str


def task_of(
    private: Listing,
    public: Listing,
    preparation: Preparation,
    public_preparation: Preparation,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = False,
) -> ImageTask:
    """Decode (or find decoded) the files of two listings and split off the validation images.

    The evaluation classifier of faces knows the same people as the target, from the same images.

    Raises:
        ValueError: A private part is missing or has one class, a file is in two parts (however its
            path is written), a file cannot be used, or ``val_fraction`` is not in (0, 1).
    """
    if not len(private.train) or not len(private.test):
        raise ValueError("the private data set has no labelled images; is it a public one?")
    check_labels(private.train.labels, "the training images")
    files = (*private.train.paths, *private.test.paths)
    for what, first, second in (
        ("training and test", private.train.paths, private.test.paths),
        ("private and public", files, public.public.paths),
    ):
        if both := shared_files(first, second):
            raise ValueError(
                f"{what} images must be others, {len(both)} are both, as {shown(both[0])}"
            )
    images, private_digest = decoded(files, preparation, cache, progress=progress)
    labels = torch.tensor((*private.train.labels, *private.test.labels))
    pool = torch.arange(len(private.train))
    held_out = stratified(labels[: len(pool)], val_fraction, seed)
    val = pool[held_out]
    train = pool[~held_out]
    test = torch.arange(len(pool), len(files))
    size = preparation.image_size
    others, public_digest = torch.empty(0, 3, size, size, dtype=torch.uint8), ""
    if len(public.public):  # a classifier can be trained without
        others, public_digest = decoded(
            public.public.paths, public_preparation, cache, progress=progress
        )
    parts = [ImageSet(images, labels, rows) for rows in (train, val, test, pool)]
    return ImageTask(
        train=parts[0],
        val=parts[1],
        test=parts[2],
        public=ImageSet(others, None),
        judge_train=parts[3],
        judge_test=parts[2],
        num_classes=len(private.class_names),
        judge_classes=len(private.class_names),
        class_names=private.class_names,
        digest=hash_of(private_digest, public_digest, labels.tolist(), val.tolist(), len(pool)),
    )


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Which images are held out (bool): ``fraction`` of each class, at least 1, never the last.

    Raises:
        ValueError: ``fraction`` outside (0, 1), or no class has an image to spare.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {fraction}")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held_out[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not held_out.any():
        raise ValueError("no private class has a training image to spare for validation")
    return held_out


def hash_of(*facts: object) -> str:
    """SHA-256 of the text of ``facts``."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()
