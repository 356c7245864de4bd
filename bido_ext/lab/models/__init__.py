# SPDX-License-Identifier: Apache-2.0
"""Classifiers: targets, evaluation classifiers, and the registry that builds them by name."""

from .base import PIXEL_RANGES, FeatureClassifier
from .by_name import NamedClassifier
from .ir import IRClassifier
from .lenet3 import LeNet3
from .mcnn import MCNN
from .mid import BottleneckClassifier
from .pretrained import load_pretrained
from .registry import LIBRARY_MODELS, MODELS, ModelSpec, build_model, find_model
from .resnet_cls_h import ResNetClsH
from .scnn import SCNN
from .vgg16 import VGG16

__all__ = [
    "LIBRARY_MODELS",
    "MCNN",
    "MODELS",
    "PIXEL_RANGES",
    "SCNN",
    "VGG16",
    "BottleneckClassifier",
    "FeatureClassifier",
    "IRClassifier",
    "LeNet3",
    "ModelSpec",
    "NamedClassifier",
    "ResNetClsH",
    "build_model",
    "find_model",
    "load_pretrained",
]
