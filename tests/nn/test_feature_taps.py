# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

import bido_ext as bx


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 5), nn.Tanh()))


def test_by_name_by_module_and_by_predicate() -> None:
    net, x = model(), torch.rand(3, 4)
    by_name = bx.FeatureTaps(net, ["1", "2.0"])
    by_module = bx.FeatureTaps(net, [net[1], net[2][0]])
    by_predicate = bx.FeatureTaps(net, lambda name, module: isinstance(module, nn.Linear))
    net(x)
    assert list(by_name.features) == list(by_module.features) == ["1", "2.0"]
    assert list(by_predicate.features) == ["0", "2.0"]
    torch.testing.assert_close(by_name.features["1"], torch.relu(net[0](x)))


def test_keeps_the_order_asked_for_and_the_graph() -> None:
    net = model()
    taps = bx.FeatureTaps(net, ["0"])
    net(torch.rand(3, 4))
    taps.features["0"].sum().backward()
    assert net[0].weight.grad is not None


def test_holds_the_last_forward_and_lets_go() -> None:
    net = model()
    with bx.FeatureTaps(net, ["0"]) as taps:
        net(torch.rand(3, 4))
        net(torch.rand(7, 4))
        assert taps.features["0"].shape == (7, 6)
        taps.clear()
        assert taps.features == {}
        net(torch.rand(2, 4))
    assert taps.features == {}
    net(torch.rand(2, 4))
    assert taps.features == {}
    assert not net[0]._forward_hooks


def test_unknown_layer_suggests_the_nearest() -> None:
    net = nn.Sequential()
    net.add_module("layer1", nn.Linear(2, 2))
    net.add_module("layer2", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no layer 'layer3'; did you mean layer2, layer1"):
        bx.FeatureTaps(net, ["layer3"])
    with pytest.raises(ValueError, match=r"no layer 'xyz'; it has, for example, layer1, layer2"):
        bx.FeatureTaps(net, ["xyz"])


def test_bad_choices() -> None:
    net = model()
    with pytest.raises(ValueError, match="layers is empty"):
        bx.FeatureTaps(net, [])
    with pytest.raises(ValueError, match="chosen twice: 0"):
        bx.FeatureTaps(net, ["0", net[0]])
    with pytest.raises(ValueError, match="is not part of the model"):
        bx.FeatureTaps(net, [nn.Linear(1, 1)])
    with pytest.raises(ValueError, match="must be a list of names, got the string '0'"):
        bx.FeatureTaps(net, "0")
    with pytest.raises(ValueError, match="the predicate chose no layer"):
        bx.FeatureTaps(net, lambda name, module: False)


def test_a_layer_that_returns_a_tuple_is_named() -> None:
    net = nn.Sequential(nn.LSTM(4, 3))
    bx.FeatureTaps(net, ["0"])
    with pytest.raises(TypeError, match="layer '0' returned tuple, not a tensor"):
        net(torch.rand(2, 5, 4))
