# SPDX-License-Identifier: Apache-2.0
"""Classifiers: targets, evaluation classifiers, and the registry that builds them by name."""

from .base import FeatureClassifier
from .lenet3 import LeNet3
from .mcnn import MCNN
from .mid import BottleneckClassifier
from .registry import MODELS, ModelSpec, build_model
from .scnn import SCNN

__all__ = [
    "MCNN",
    "MODELS",
    "SCNN",
    "BottleneckClassifier",
    "FeatureClassifier",
    "LeNet3",
    "ModelSpec",
    "build_model",
]
