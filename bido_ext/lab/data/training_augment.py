# SPDX-License-Identifier: Apache-2.0
"""What is done to a batch of training images at random, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from .augment import AUGMENTATIONS, augmentation, random_affine

# (batch, generator) -> batch
Augment = Callable[[Tensor, torch.Generator], Tensor]


def _crop_flip(side: int) -> v2.Transform:
    return v2.Compose([v2.RandomCrop(side, padding=4), v2.RandomHorizontalFlip()])


def _photo(side: int) -> v2.Transform:
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.85, 1.0), ratio=(1.0, 1.0)),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.1, hue=0.1),
            v2.RandomHorizontalFlip(),
        ]
    )


# Side of the images -> transform of one image, as the published trainings have them.
_ONE_BY_ONE: dict[str, Callable[[int], v2.Transform]] = {
    "crop-flip": _crop_flip,  # CIFAR-10
    "photo": _photo,  # 224 pixels, the attack line of PPA
}
TRAINING_AUGMENTATIONS = (*AUGMENTATIONS, *_ONE_BY_ONE)


def training_augmentation(name: str) -> Augment | None:
    """The augmentation ``name``; None for "none".

    Those of ``AUGMENTATIONS`` draw from the generator they are given, the others from PyTorch's
    global one, which training seeds at the start of each epoch.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TRAINING_AUGMENTATIONS:
        raise ValueError(
            f"augment must be one of {', '.join(TRAINING_AUGMENTATIONS)}, got {name!r}"
        )
    if name in _ONE_BY_ONE:
        return partial(_one_by_one, _ONE_BY_ONE[name])
    ranges = augmentation(name)
    return None if ranges is None else lambda x, generator: random_affine(x, ranges, generator)


def _one_by_one(
    build: Callable[[int], v2.Transform], images: Tensor, generator: torch.Generator
) -> Tensor:
    # A transform draws once a call; a batch in one call would get one crop for all its images.
    transform = build(images.shape[-1])
    return torch.stack([transform(image) for image in images])
