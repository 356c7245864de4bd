# SPDX-License-Identifier: Apache-2.0
"""Data of the experiments: private set, public set and the evaluation classifier's set."""

from .digits import DigitTask, digit_task
from .identity_batches import IdentityBatches
from .image_set import ImageSet
from .mnist import RawDigits, cache_dir, load_mnist
from .registry import DATASETS, DataConfig, DatasetSpec, find_dataset, load_task
from .task import ImageTask

__all__ = [
    "DATASETS",
    "DataConfig",
    "DatasetSpec",
    "DigitTask",
    "IdentityBatches",
    "ImageSet",
    "ImageTask",
    "RawDigits",
    "cache_dir",
    "digit_task",
    "find_dataset",
    "load_mnist",
    "load_task",
]
