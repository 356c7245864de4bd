# SPDX-License-Identifier: Apache-2.0
"""Any classifier of torchvision or timm, by name, with a head of our own."""

import difflib
from typing import Any

import torchvision.models
from torch import Tensor, nn

from .base import FeatureClassifier
from .default_taps import default_taps

SOURCES = ("torchvision", "timm")
_DEFAULT_SIZE = {"inception_v3": 299}


class NamedClassifier(FeatureClassifier):
    """``torchvision/NAME`` or ``timm/NAME`` without its last linear layer, and a new one.

    Args:
        num_classes: outputs.
        name: as in ``torchvision/resnet18`` or ``timm/vit_tiny_patch16_224``.
        image_size: side of the images; None: what the network was made for.
    """

    # Side branches of Inception and GoogLeNet, which only their own training uses.
    file_ignored = ("AuxLogits.", "aux1.", "aux2.")

    def __init__(self, num_classes: int, *, name: str, image_size: int | None = None) -> None:
        source, _, model = name.partition("/")
        build = _from_torchvision if source == "torchvision" else _from_timm
        network, feature_dim, size, old_head = build(model, image_size)
        shape = (3, size, size)
        taps = default_taps(network, shape)
        super().__init__(
            feature_dim, num_classes, shape, taps=tuple(f"network.{tap}" for tap in taps)
        )
        self.network = network
        self.file_prefixes = {f"{old_head}.": "head.", "": "network."}

    def embed(self, x: Tensor) -> Tensor:
        """Penultimate features (n, feature_dim)."""
        return self.network(x)


def is_library_model(name: str) -> bool:
    """Whether ``name`` has the form of this module's names."""
    source, slash, model = name.partition("/")
    return bool(slash and model) and source in SOURCES


def library_image_size(name: str) -> int:
    """Side of the images that a model of a library was made for.

    Raises:
        ValueError: The library has no such classifier.
        ModuleNotFoundError: A timm model without timm.
    """
    source, _, model = name.partition("/")
    if source == "timm":
        known = _timm().list_models()
        model = model.split(".")[0]  # timm's names may end in a tag of weights
    else:
        known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"arch: {source} has no classifier {model!r}{hint}")
    if source == "timm":
        config = _timm().get_pretrained_cfg(name.partition("/")[2])
        return int(config.input_size[-1]) if config is not None else 224
    return _DEFAULT_SIZE.get(model, 224)


def _from_torchvision(name: str, image_size: int | None) -> tuple[nn.Module, int, int, str]:
    size = image_size or _DEFAULT_SIZE.get(name, 224)
    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    network = torchvision.models.get_model(name, weights=None, **options)
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or name.startswith("squeezenet"):
        raise ValueError(f"arch: torchvision/{name} does not end in a linear layer")
    parent, _, last = linear[-1].rpartition(".")
    holder = network.get_submodule(parent)
    feature_dim = int(getattr(holder, last).in_features)
    setattr(holder, last, nn.Identity())
    return network, feature_dim, size, linear[-1]


def _from_timm(name: str, image_size: int | None) -> tuple[nn.Module, int, int, str]:
    timm = _timm()
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError:  # most convolutional networks take any size and no such argument
        network = timm.create_model(name, pretrained=False, num_classes=0)
    made_for = network.pretrained_cfg.get("input_size", (3, 224, 224))
    feature_dim = getattr(network, "head_hidden_size", None) or network.num_features
    head = network.pretrained_cfg.get("classifier") or "head"
    return network, int(feature_dim), image_size or int(made_for[-1]), str(head)


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'arch names a timm model and timm is not installed; run: pip install "bido-ext[timm]"',
            name="timm",
        ) from error
    return timm
