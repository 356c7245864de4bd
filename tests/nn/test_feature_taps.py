# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    assert repr(by_name) == "FeatureTaps('1', '2.0')"
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
    with pytest.raises(
        TypeError, match=r"layer '0' returned tuple of 2 \(Tensor, tuple\), not a tensor"
    ):
        net(torch.rand(2, 5, 4))


class Order(nn.Module):
    """Runs the layers named in ``runs``, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.runs = "cab"

    def forward(self, x: Tensor) -> Tensor:
        for name in self.runs:
            x = getattr(self, name)(x)
        return x


def silently(taps: bx.FeatureTaps) -> dict[str, Tensor]:
    """The features; fails if reading them warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return taps.features


@pytest.mark.parametrize("layers", [nn.ModuleList([nn.ReLU()]), nn.ReLU(), 5, None])
def test_what_is_no_choice_of_layers_is_named(layers: Any) -> None:
    wanted = "layers must be a list of names or modules, or a predicate"
    with pytest.raises(TypeError, match=f"{wanted}.*, got {type(layers).__name__}"):
        bx.FeatureTaps(model(), layers)
    with pytest.raises(TypeError, match="must hold names or modules of the model, got list in it"):
        bx.FeatureTaps(model(), [["0"]])  # type: ignore[list-item]


def test_features_come_in_the_order_of_the_layers_not_of_the_calls() -> None:
    net = Order()
    taps = bx.FeatureTaps(net, ["a", "b", "c"])
    net(torch.rand(3, 4))
    assert list(silently(taps)) == ["a", "b", "c"]


def test_a_layer_that_did_not_run_has_no_features_of_an_earlier_pass() -> None:
    net = Order()
    taps = bx.FeatureTaps(net, ["a", "c"])
    net(torch.rand(3, 4))
    net.runs = "a"
    net(torch.rand(3, 4))
    with pytest.warns(UserWarning, match=r"layer\(s\) c: did not run in the last forward pass"):
        assert list(taps.features) == ["a"]
    net(torch.rand(3, 4))
    assert list(silently(taps)) == ["a"]  # said once
    net.runs = "ca"
    net(torch.rand(3, 4))
    assert list(silently(taps)) == ["a", "c"]


def test_a_layer_that_is_never_called_is_named() -> None:
    net = nn.Sequential(nn.TransformerEncoderLayer(4, 2))
    taps = bx.FeatureTaps(net, ["0.self_attn.out_proj"])
    assert silently(taps) == {}
    net(torch.rand(3, 2, 4))
    with pytest.warns(UserWarning, match="0.self_attn.out_proj: did not run"):
        assert taps.features == {}


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_of_the_whole_model_keeps_the_features(reentrant: bool) -> None:
    net = model()
    taps = bx.FeatureTaps(net, ["0", "1"])
    x = torch.rand(3, 4, requires_grad=True)
    loss = checkpoint(net, x, use_reentrant=reentrant).sum()
    kept = taps.features
    if reentrant:
        with pytest.raises(RuntimeError, match=r"runs inside checkpoint\(use_reentrant=True\)"):
            loss.backward()
    else:
        loss.backward()
    assert all(silently(taps)[name] is kept[name] for name in ("0", "1"))


def test_a_change_in_place_is_said_once() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5))
    taps = bx.FeatureTaps(net, ["0", "1", "2"])
    x = torch.rand(3, 4)
    for _ in range(2):
        net(x)
    with pytest.warns(UserWarning, match=r"layer\(s\) 0: changed in place after it returned"):
        features = taps.features
    torch.testing.assert_close(features["0"], torch.relu(nn.Linear.forward(net[0], x)))
    net(x)
    silently(taps)


def test_inference_mode_has_no_versions() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    taps = bx.FeatureTaps(net, ["0"])
    with torch.inference_mode():
        net(torch.rand(3, 4))
        assert silently(taps)["0"].shape == (3, 6)
    assert silently(taps)["0"].shape == (3, 6)


def through_pickle(net: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(net))


def through_save(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("through", [copy.deepcopy, through_pickle, through_save])
def test_a_copy_of_a_tapped_model_is_not_tapped(through: Callable[[nn.Module], nn.Module]) -> None:
    net, x = model(), torch.rand(3, 4)
    taps = bx.FeatureTaps(net, ["0", "2"])
    net(x)
    kept = taps.features
    copied = through(net)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), kept["2"])
    assert all(silently(taps)[name] is kept[name] for name in ("0", "2"))
    net(x)
    assert silently(taps)["0"] is not kept["0"]


def test_an_average_of_a_model_that_holds_its_taps() -> None:
    net = Order()
    net.taps = bx.FeatureTaps(net, ["a"])  # type: ignore[assignment]
    net(torch.rand(3, 4))
    average = torch.optim.swa_utils.AveragedModel(net)
    kept = net.taps.features["a"]  # type: ignore[union-attr, operator]
    average(torch.rand(2, 4))
    assert net.taps.features["a"] is kept  # type: ignore[union-attr, operator]


def test_a_compiled_model_and_an_eager_loss() -> None:
    torch._dynamo.reset()
    net = Order()
    taps = bx.FeatureTaps(net, ["a", "b"])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for n in (3, 4, 5):
        x = torch.rand(n, 4)
        compiled(x)
        assert list(silently(taps)) == ["a", "b"]
        torch.testing.assert_close(taps.features["a"], net.a(net.c(x)))
        assert taps.features["a"].requires_grad
