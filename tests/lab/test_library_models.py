# SPDX-License-Identifier: Apache-2.0
"""Classifiers of torchvision and timm by name, and where BiDO watches them."""

import sys

import pytest
import torch
from torch import nn

from bido_ext import FeatureTaps
from bido_ext.lab.models import build_model, find_model
from bido_ext.lab.models.default_taps import default_taps, evenly

FAMILIES = [
    ("torchvision/resnet18", 32, [f"layer{i}" for i in (1, 2, 3, 4)]),
    ("torchvision/densenet121", 32, [f"features.denseblock{i}" for i in (1, 2, 3, 4)]),
    ("torchvision/vgg11", 32, [f"features.{i}" for i in (2, 5, 10, 15, 20)]),
    ("torchvision/mobilenet_v3_small", 32, None),
    ("timm/resnet10t", 32, [f"layer{i}" for i in (1, 2, 3, 4)]),
    ("timm/vit_tiny_patch16_224", 32, [f"blocks.{i}" for i in (2, 5, 8, 11)]),
]


@pytest.mark.parametrize(("name", "size", "taps"), FAMILIES)
def test_family_is_built_and_watched(name, size, taps):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    options = {"image_size": size}
    model, x = build_model(name, 7, options=options).train(), torch.rand(2, 3, size, size)
    if taps is not None:
        assert model.taps == tuple(f"network.{tap}" for tap in taps)
    assert len(model.taps) >= 4
    with FeatureTaps(model, list(model.taps)) as watched:
        logits = model(x)
        assert logits.shape == (2, 7)
        assert [len(value) for value in watched.features.values()] == [2] * len(model.taps)
        sum(value.sum() for value in watched.features.values()).backward()


def test_default_sizes():
    assert find_model("torchvision/resnet18").input_shape == (3, 224, 224)
    assert find_model("torchvision/inception_v3").input_shape == (3, 299, 299)


def test_evenly():
    assert evenly(list("abcdefgh")) == ["b", "d", "f", "h"]
    assert evenly(list("ab")) == ["a", "b"]


def test_layers_that_run_twice_are_not_watched():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            self.once, self.flat = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x = self.once(self.shared(self.shared(self.stem(x)))).flatten(2)
            return self.flat(x.transpose(1, 2).flatten(0, 1))  # one row a pixel, not an image

    with pytest.raises(ValueError, match="no layer of Conv2d can be chosen"):
        default_taps(nn.Conv2d(3, 4, 3), (3, 8, 8))
    assert default_taps(Twice(), (3, 8, 8)) == ("once",)


def test_a_network_without_linear_head_is_refused():
    with pytest.raises(ValueError, match="squeezenet1_1 does not end in a linear layer"):
        build_model("torchvision/squeezenet1_1", 5)


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r'timm is not installed.*"bido-ext\[timm\]"'):
        build_model("timm/resnet10t", 5)


def test_unknown_timm_model():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="timm has no classifier 'resnet10x'; did you mean"):
        build_model("timm/resnet10x", 5)
