# SPDX-License-Identifier: Apache-2.0
"""The MNIST model-inversion task: digits 0-4 are private, 5-9 are the attacker's public set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from .mnist import RawDigits, load_mnist
from .task import hash_of

NUM_PRIVATE_CLASSES = 5


@dataclass(frozen=True)
class DigitTask:
    """Images are float32 (N, 1, image_size, image_size) in [0, 1]; labels int64 (N,).

    Attributes:
        train, val: private digits 0-4 of MNIST's training part, split at random.
        test: private digits 0-4 of MNIST's test part.
        public: images only, digits 5-9 of both parts: all the attacker's generator may see.
        judge_train, judge_test: all ten digits, for the evaluation classifier alone.
        num_classes, judge_classes: of the target and of the evaluation classifier.
        class_names: name of each private class.
        digest: hash of the digits and of how they are resized and split.
        digits_sha256: ``RawDigits.sha256``, whatever the split.
    """

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    public: TensorDataset
    judge_train: TensorDataset
    judge_test: TensorDataset
    num_classes: int = NUM_PRIVATE_CLASSES
    judge_classes: int = 10
    class_names: tuple[str, ...] = ("0", "1", "2", "3", "4")
    digest: str = ""
    digits_sha256: str = ""


def digit_task(
    root: Path | str | None = None,
    image_size: int = 32,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> DigitTask:
    """Load MNIST and split it into the sets of the experiment.

    Args:
        root: torchvision-style MNIST folder; ``None`` uses the cache or fetches the data.
        image_size: side of the square images; the 28-pixel digits are resized bilinearly.
        val_fraction: share of the private training digits kept for model selection.
        seed: of the train/validation split.

    Raises:
        ValueError: ``image_size`` below 8, or ``val_fraction`` outside (0, 1).
    """
    return split_digits(load_mnist(root), image_size, val_fraction, seed)


def split_digits(
    digits: RawDigits, image_size: int = 32, val_fraction: float = 0.1, seed: int = 0
) -> DigitTask:
    """``digit_task`` for digits already in memory (same arguments and errors)."""
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")
    if not 0.0 < val_fraction < 1.0:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    train_x, train_y = _tensors(digits.train_images, digits.train_labels, image_size)
    test_x, test_y = _tensors(digits.test_images, digits.test_labels, image_size)
    private, private_test = train_y < NUM_PRIVATE_CLASSES, test_y < NUM_PRIVATE_CLASSES
    private_x, private_y = train_x[private], train_y[private]
    order = torch.randperm(len(private_x), generator=torch.Generator().manual_seed(seed))
    held_out = max(1, round(val_fraction * len(order)))
    sha256 = digits.sha256()
    val, train = order[:held_out], order[held_out:]
    return DigitTask(
        train=TensorDataset(private_x[train], private_y[train]),
        val=TensorDataset(private_x[val], private_y[val]),
        test=TensorDataset(test_x[private_test], test_y[private_test]),
        public=TensorDataset(torch.cat([train_x[~private], test_x[~private_test]])),
        judge_train=TensorDataset(train_x, train_y),
        judge_test=TensorDataset(test_x, test_y),
        digest=hash_of(sha256, image_size, val_fraction, seed),
        digits_sha256=sha256,
    )


def _tensors(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], image_size: int
) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1).float().div_(255)
    if x.shape[-1] != image_size:
        # Bilinear weights sum to one, so the pixels stay in [0, 1].
        x = F.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)
    return x, torch.from_numpy(labels.astype(np.int64))
