# SPDX-License-Identifier: Apache-2.0
"""The classifiers by name, with the layers that the dependence losses watch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .base import FeatureClassifier
from .lenet3 import LeNet3
from .mcnn import MCNN
from .mid import BottleneckClassifier
from .scnn import SCNN


@dataclass(frozen=True)
class ModelSpec:
    """One architecture.

    Attributes:
        name: as on the command line.
        build: number of classes -> untrained model.
        input_shape: (channels, height, width).
        taps: names of the modules whose outputs BiDO watches (protocol: BiDO's hidden layers).
        description: one line.
    """

    name: str
    build: Callable[[int], FeatureClassifier]
    input_shape: tuple[int, int, int]
    taps: tuple[str, ...]
    description: str


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("mcnn", MCNN, (1, 32, 32), MCNN.layers, "three-convolution MNIST target of BiDO"),
        ModelSpec("scnn", SCNN, (1, 32, 32), SCNN.layers, "five-convolution evaluation classifier"),
        ModelSpec("lenet3", LeNet3, (1, 28, 28), LeNet3.layers, "small LeNet for 28 x 28 digits"),
    )
}


def build_model(name: str, num_classes: int, defence: str | None = None) -> nn.Module:
    """Build an untrained classifier; ``defence="mid"`` puts MID's bottleneck before its head.

    Raises:
        ValueError: unknown ``name``, or ``num_classes`` below 2.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    model = MODELS[name].build(num_classes)
    return BottleneckClassifier(model, num_classes) if defence == "mid" else model
