# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10: classes 0-4 are private, 5-9 the attacker's public set."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .image_set import ImageSet
from .mnist import ArrayUnpickler
from .task import ImageTask, hash_of, stratified

NUM_PRIVATE_CLASSES = 5
FOLDER = "cifar-10-batches-py"
TRAIN, TEST = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer")


def cifar10(
    root: Path, image_size: int = 32, *, val_fraction: float = 0.1, seed: int = 0
) -> ImageTask:
    """Read CIFAR-10 as torchvision unpacks it into ``root`` (nothing is downloaded) and split it.

    The files are pickles; they are read with an unpickler that admits arrays and nothing else. The
    evaluation classifier tells all ten classes apart.

    Raises:
        ValueError: ``root`` holds no readable CIFAR-10.
    """
    folder = root if (root / TEST[0]).is_file() else root / FOLDER
    trained, tested = (_read(folder, names) for names in (TRAIN, TEST))
    images = torch.cat([_resized(part[0], image_size) for part in (trained, tested)])
    labels = torch.cat([trained[1], tested[1]])
    is_train = torch.arange(len(images)) < len(trained[1])
    private = labels < NUM_PRIVATE_CLASSES
    pool = (is_train & private).nonzero().flatten()
    held_out = stratified(labels[pool], val_fraction, seed)

    def part(rows: Tensor) -> ImageSet:
        return ImageSet(images, labels, rows)

    return ImageTask(
        train=part(pool[~held_out]),
        val=part(pool[held_out]),
        test=part((~is_train & private).nonzero().flatten()),
        public=ImageSet(images, None, (~private).nonzero().flatten()),
        judge_train=part(is_train.nonzero().flatten()),
        judge_test=part((~is_train).nonzero().flatten()),
        num_classes=NUM_PRIVATE_CLASSES,
        judge_classes=10,
        class_names=CLASS_NAMES,
        digest=hash_of(images.numpy().tobytes(), labels.tolist(), held_out.tolist()),
    )


def _read(folder: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for name in names:
        content = _unpickled(folder / name)
        rows = np.asarray(content.get("data"))
        classes = np.asarray(content.get("labels"), dtype=np.int64)
        if rows.dtype != np.uint8 or rows.shape != (len(classes), 3072):
            raise ValueError(
                f"{folder / name} is no batch of CIFAR-10: its images are {rows.shape}"
            )
        images.append(torch.from_numpy(rows.reshape(-1, 3, 32, 32).copy()))
        labels.append(torch.from_numpy(classes))
    return torch.cat(images), torch.cat(labels)


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise ValueError(f"--data must hold {FOLDER} of CIFAR-10, there is no {path}") from None
    except (ValueError, EOFError, pickle.UnpicklingError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is not a readable batch of CIFAR-10 ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no batch of CIFAR-10: it holds a {type(content).__name__}")
    return content


def _resized(images: Tensor, image_size: int) -> Tensor:
    if images.shape[-1] == image_size:
        return images
    size = (image_size, image_size)
    return torch.cat(
        [
            F.interpolate(part.float(), size, mode="bilinear", antialias=True).round().byte()
            for part in images.split(1024)
        ]
    )
