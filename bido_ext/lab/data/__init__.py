# SPDX-License-Identifier: Apache-2.0
"""Data of the experiments: private set, public set and the evaluation classifier's set."""

from .digits import DigitTask, digit_task
from .mnist import RawDigits, cache_dir, load_mnist

__all__ = ["DigitTask", "RawDigits", "cache_dir", "digit_task", "load_mnist"]
