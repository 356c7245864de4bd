# SPDX-License-Identifier: Apache-2.0
"""The classifiers by name, with their options and the layers that the dependence losses watch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from .base import PIXEL_RANGES, FeatureClassifier
from .by_name import NamedClassifier, is_library_model, library_image_size
from .ir import IRClassifier
from .lenet3 import LeNet3
from .mcnn import MCNN
from .mid import BottleneckClassifier
from .norms import NORMS, use_group_norm
from .resnet_cls_h import ResNetClsH
from .scnn import SCNN
from .skips import scale_skips
from .vgg16 import VGG16

# Of residual networks: what the skips of the last stages are multiplied by.
_SKIPS = {"skip_stages": 0, "skip_factor": 1.0}

_NORM = {"norm": "batch"}  # "group": group norm in its place


@dataclass(frozen=True)
class ModelSpec:
    """One architecture.

    Attributes:
        name: as on the command line.
        build: number of classes and options -> untrained model.
        input_shape: (channels, height, width) with the default options.
        description: one line.
        options: names of its own options with the defaults.
        resize: default of the option ``resize``: resize images of another size on entry.
        mid_options: arguments of ``build`` under MID.
    """

    name: str
    build: Callable[..., FeatureClassifier]
    input_shape: tuple[int, int, int]
    description: str
    options: Mapping[str, Any] = field(default_factory=dict)
    resize: bool = False
    mid_options: Mapping[str, Any] = field(default_factory=dict)

    def all_options(self) -> dict[str, Any]:
        """Its own options and those of every classifier, with the defaults."""
        return {**self.options, "pixel_range": "unit", "resize": self.resize, **_SKIPS, **_NORM}

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that differ from the defaults, checked and in the type of the default.

        Raises:
            ValueError: an option that this architecture does not have, or a value of a wrong type.
        """
        defaults = self.all_options()
        resolved = {}
        for key, value in given.items():
            if key not in defaults:
                raise ValueError(
                    f"arch {self.name!r} has no option {key!r}; its options: {', '.join(defaults)}"
                )
            resolved[key] = _typed(key, value, defaults[key])
        if resolved.get("pixel_range", "unit") not in PIXEL_RANGES:
            raise ValueError(
                f"pixel_range must be one of {', '.join(PIXEL_RANGES)}, "
                f"got {resolved['pixel_range']!r}"
            )
        if resolved.get("norm", "batch") not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {resolved['norm']!r}")
        return {key: value for key, value in resolved.items() if value != defaults[key]}

    def shape(self, options: Mapping[str, Any] | None = None) -> tuple[int, int, int]:
        """(channels, height, width) under ``options``."""
        size = (options or {}).get("image_size")
        return (self.input_shape[0], size, size) if size else self.input_shape


_IR = {"image_size": 64, "width": 1.0}
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("mcnn", MCNN, (1, 32, 32), "three-convolution MNIST target of BiDO"),
        ModelSpec("scnn", SCNN, (1, 32, 32), "five-convolution evaluation classifier"),
        ModelSpec("lenet3", LeNet3, (1, 28, 28), "small LeNet for 28 x 28 digits"),
        ModelSpec(
            "vgg16",
            VGG16,
            (3, 64, 64),
            "VGG16 with batch norm, the CelebA target of BiDO; image_size 32 for CIFAR-10",
            {"image_size": 64, "width": 1.0},
            mid_options={"feature_norm": False},
        ),
        ModelSpec(
            "resnet-clsh",
            ResNetClsH,
            (3, 64, 64),
            "ResNet-34 with VMI's narrow head (depth 10, 34 or 50)",
            {"image_size": 64, "depth": 34, "zdim": 50},
        ),
        ModelSpec(
            "facenet64",
            partial(IRClassifier, depth=50),
            (3, 64, 64),
            "IR-50 at 64 pixels (FaceNet64)",
            _IR,
        ),
        ModelSpec(
            "ir152", partial(IRClassifier, depth=152), (3, 64, 64), "IR-152 at 64 pixels", _IR
        ),
        ModelSpec(
            "facenet112",
            partial(IRClassifier, depth=50),
            (3, 112, 112),
            "IR-50 at 112 pixels, the CelebA evaluation classifier; resizes smaller images",
            {"image_size": 112, "width": 1.0},
            resize=True,
        ),
    )
}
# What `bido list models` says of the two libraries.
LIBRARY_MODELS = {
    "torchvision/NAME": "any torchvision classifier, as torchvision/resnet18",
    "timm/NAME": 'any timm classifier, as timm/resnest101e (pip install "bido-ext[timm]")',
}


def find_model(name: str) -> ModelSpec:
    """Look up a classifier: a key of ``MODELS``, ``torchvision/NAME`` or ``timm/NAME``.

    Raises:
        ValueError: there is none of that name.
        ModuleNotFoundError: a timm model without timm.
    """
    if is_library_model(name):
        size = library_image_size(name)
        return ModelSpec(
            name,
            partial(NamedClassifier, name=name),
            (3, size, size),
            LIBRARY_MODELS[f"{name.partition('/')[0]}/NAME"],
            {"image_size": size},
        )
    if name not in MODELS:
        known = ", ".join([*MODELS, *LIBRARY_MODELS])
        raise ValueError(f"arch must be one of {known}, got {name!r}")
    return MODELS[name]


def build_model(
    name: str,
    num_classes: int,
    defence: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build an untrained classifier; under "mid" MID's bottleneck stands before its head.

    Args:
        name: see ``find_model``.
        num_classes: outputs.
        defence: as of ``Defence``.
        options: overrides of ``find_model(name).all_options()``.

    Raises:
        ValueError: unknown ``name`` or option, ``num_classes`` below 2, or skips of a network without.
    """
    spec = find_model(name)
    given = spec.resolve(options or {})
    own = {key: value for key, value in given.items() if key in spec.options}
    if "image_size" in spec.options:
        own.setdefault("image_size", spec.options["image_size"])
    is_mid = "mid" in (defence or "").split("+")
    if is_mid:
        own.update(spec.mid_options)
    model = spec.build(num_classes, **own)
    model.set_pixel_range(given.get("pixel_range", "unit"))
    model.resize = given.get("resize", spec.resize)
    if stages := given.get("skip_stages"):
        scale_skips(model, stages, given.get("skip_factor", 1.0))
    if given.get("norm") == "group":
        use_group_norm(model)
    return BottleneckClassifier(model, num_classes) if is_mid else model


def _typed(key: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; numbers may come as text from the command line."""
    wanted = type(default)
    if wanted is bool:
        words = {"true": True, "false": False, "True": True, "False": False}
        value = words.get(value, value) if isinstance(value, str) else value
    elif wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        value = int(number) if wanted is int and number == int(number or 0) else number
    if not isinstance(value, wanted) or value != value:
        raise ValueError(f"{key} must be of type {wanted.__name__}, got {value!r}")
    return value
