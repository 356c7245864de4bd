# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10: classes 0-4 are private, 5-9 the attacker's public set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10

from .image_set import ImageSet
from .task import ImageTask, hash_of, stratified

NUM_PRIVATE_CLASSES = 5


def cifar10(
    root: Path, image_size: int = 32, *, val_fraction: float = 0.1, seed: int = 0
) -> ImageTask:
    """Load torchvision's CIFAR-10 from ``root`` (nothing is downloaded) and split it.

    The evaluation classifier tells all ten classes apart.

    Raises:
        ValueError: ``root`` holds no readable CIFAR-10.
    """
    try:
        parts = [CIFAR10(str(root), train=flag, download=False) for flag in (True, False)]
    except (RuntimeError, OSError, EOFError, KeyError) as error:
        raise ValueError(
            f"--data must hold torchvision's cifar-10-batches-py, {root} holds none that is "
            f"readable: {error}"
        ) from error
    images = torch.cat([_resized(part.data, image_size) for part in parts])
    labels = torch.tensor([label for part in parts for label in part.targets])
    trained = torch.arange(len(images)) < len(parts[0])
    private = labels < NUM_PRIVATE_CLASSES
    pool = (trained & private).nonzero().flatten()
    held_out = stratified(labels[pool], val_fraction, seed)

    def part(rows: Tensor) -> ImageSet:
        return ImageSet(images, labels, rows)

    return ImageTask(
        train=part(pool[~held_out]),
        val=part(pool[held_out]),
        test=part((~trained & private).nonzero().flatten()),
        public=ImageSet(images, None, (~private).nonzero().flatten()),
        judge_train=part(trained.nonzero().flatten()),
        judge_test=part((~trained).nonzero().flatten()),
        num_classes=NUM_PRIVATE_CLASSES,
        judge_classes=10,
        class_names=tuple(parts[0].classes[:NUM_PRIVATE_CLASSES]),
        digest=hash_of(images.numpy().tobytes(), labels.tolist()),
    )


def _resized(images: np.ndarray, image_size: int) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    if x.shape[-1] == image_size:
        return x.contiguous()
    size = (image_size, image_size)
    resized = [
        F.interpolate(part.float(), size, mode="bilinear", antialias=True).round().byte()
        for part in x.split(1024)
    ]
    return torch.cat(resized)
