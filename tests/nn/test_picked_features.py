# SPDX-License-Identifier: Apache-2.0
"""Taps on layers that return tuples, dicts and other outputs."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import bido_ext as bx


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Returns(nn.Module):
    """Returns its features in some container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(4, 3), kind

    def forward(self, x: Tensor) -> Any:
        z = self.linear(x)
        return {
            "tuple": (z, x),
            "list": [x, z],
            "dict": {"hidden": z, "rest": (x, None)},
            "named": Pair(x, z),
            "nested": ((x, [z]), x),
            "tensor": z,
        }[self.kind]


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head = Returns(kind), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.head(x)


PICKS: list[tuple[str, Any]] = [
    ("tuple", 0),
    ("tuple", -2),
    ("list", 1),
    ("dict", "hidden"),
    ("dict", lambda out: out["hidden"]),
    ("named", 1),
    ("named", "second"),
    ("nested", lambda out: out[0][1][0]),
    ("tensor", None),
    ("tensor", lambda z: z.relu() + 1),
]


@pytest.mark.parametrize(("kind", "pick"), PICKS)
@pytest.mark.parametrize("compiled", [False, True])
def test_picks(kind: str, pick: Any, compiled: bool) -> None:
    torch._dynamo.reset()
    net, x, y = Net(kind), torch.rand(6, 4), torch.arange(6) % 2
    taps, criterion = bx.FeatureTaps(net, {"layer": pick}), bx.BiDOLoss("hsic")

    def step(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y) + criterion(x, taps.features, y)

    run = torch.compile(step, fullgraph=True, backend="aot_eager") if compiled else step
    run(x, y).backward()
    z = net.layer.linear(x)
    expected = z.relu() + 1 if kind == "tensor" and callable(pick) else z
    torch.testing.assert_close(taps.features["layer"], expected)
    (want,) = torch.autograd.grad(criterion(x, [expected], y), net.layer.linear.weight)
    torch.testing.assert_close(net.layer.linear.weight.grad, want)


def test_by_module_and_in_the_order_given() -> None:
    net = Net("tuple")
    taps = bx.FeatureTaps(net, {net.head: None, "layer": 0})
    net(torch.rand(6, 4))
    assert list(taps.features) == taps.names == ["head", "layer"]


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers(layer: Any) -> None:
    net = nn.Sequential(layer(4, 3, batch_first=True))
    taps = bx.FeatureTaps(net, {"0": 0})
    x = torch.rand(6, 5, 4)
    output, _ = net(x)
    assert taps.features["0"] is output
    taps.remove()
    last = bx.FeatureTaps(net, {"0": lambda out: (out[1][0] if layer is nn.LSTM else out[1])[-1]})
    net(x)
    torch.testing.assert_close(last.features["0"], output[:, -1])
    bx.BiDOLoss("hsic")(x, last.features, torch.arange(6) % 2).backward()


def test_time_first_is_turned() -> None:
    net = nn.Sequential(nn.GRU(4, 3))
    x = torch.rand(5, 6, 4)
    taps = bx.FeatureTaps(net, {"0": lambda out: out[0].transpose(0, 1)})
    output, _ = net(x)
    torch.testing.assert_close(taps.features["0"], output.transpose(0, 1))
    with bx.FeatureTaps(net, {"0": 0}) as wrong:
        net(x)
        with pytest.warns(UserWarning, match=r"layer\(s\) 0: the first dimension .* counts times"):
            features = wrong.features
        with pytest.raises(ValueError, match="same number of samples, got 6 and 5"):
            bx.BiDOLoss("hsic")(x.transpose(0, 1), features, torch.arange(6))


@pytest.mark.parametrize(
    ("layer", "pick", "said"),
    [
        (nn.GRU(4, 4), 0, True),
        (nn.GRU(4, 4, batch_first=True), 0, False),
        (nn.GRU(4, 4, batch_first=True), 1, True),
        (nn.GRU(4, 4, batch_first=True), -1, True),
        (nn.GRU(4, 4, batch_first=True), lambda out: out[1][-1], False),
        (nn.Linear(4, 4), None, False),
    ],
)
def test_time_in_the_place_of_samples_is_said(layer: nn.Module, pick: Any, said: bool) -> None:
    """Also where there happen to be as many times as samples."""
    net = nn.Sequential(layer)
    taps = bx.FeatureTaps(net, {"0": pick})
    net(torch.rand(5, 5, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert taps.features
    assert [("counts times" in str(w.message)) for w in caught] == [True] * said


@pytest.mark.parametrize("pick", ["last_hidden_state", 0, lambda out: out.last_hidden_state[:, 0]])
def test_hugging_face_outputs(pick: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    taps = bx.FeatureTaps(model, {"vit": pick})
    x, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    loss = model(pixel_values=x, labels=y).loss + bx.BiDOLoss("hsic")(x, taps.features, y)
    loss.backward()
    assert taps.features["vit"].shape == ((6, 8) if callable(pick) else (6, 5, 8))


@pytest.mark.parametrize("pick", ["hidden", lambda out: out["hidden"].sigmoid().square()])
def test_a_checkpoint_runs_the_pick_again(pick: Any) -> None:
    """Its second run has to save as many tensors as the first."""
    x, y = torch.rand(6, 4, requires_grad=True), torch.arange(6) % 2
    grads = []
    for wrapped in (True, False):
        net = Net("dict")
        taps = bx.FeatureTaps(net, {"layer": pick})
        logits = checkpoint(net, x, use_reentrant=False) if wrapped else net(x)
        (F.cross_entropy(logits, y) + bx.BiDOLoss("hsic")(x, taps.features, y)).backward()
        grads.append(net.layer.linear.weight.grad)
    torch.testing.assert_close(*grads)


def test_under_functional_transforms() -> None:
    net, x, y = Net("tuple"), torch.rand(6, 4), torch.arange(6) % 2
    taps, criterion = bx.FeatureTaps(net, {"layer": 0}), bx.BiDOLoss("hsic")
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        torch.func.functional_call(net, parameters, (x,))
        return criterion(x, taps.features, y)

    found = torch.func.grad(loss)(parameters)["layer.linear.weight"]
    net(x)
    criterion(x, taps.features, y).backward()
    torch.testing.assert_close(found, net.layer.linear.weight.grad)


@pytest.mark.parametrize(
    ("kind", "pick", "message"),
    [
        ("tuple", None, r"layer 'layer' returned tuple of 2 \(Tensor, Tensor\), not a tensor. .*\"layer\": 0"),
        ("dict", None, r"returned dict with the keys hidden, rest, not a tensor. .*\"layer\": \"hidden\""),
        ("named", None, r"returned Pair of 2 \(Tensor, Tensor\), not a tensor"),
        ("tuple", 2, r"returned tuple of 2 .*, of which 2 cannot be picked \(IndexError"),
        ("dict", "hiden", "the keys hidden, rest, of which 'hiden' cannot be picked"),
        ("tuple", "hidden", "of which 'hidden' cannot be picked .AttributeError"),
        ("tensor", lambda out: out.last_hidden_state, "what the function picks cannot be picked"),
        ("dict", "rest", r"'rest' of layer 'layer' is tuple of 2 \(Tensor, NoneType\), not a tensor"),
        ("nested", lambda out: None, "what the function picks of layer 'layer' is NoneType"),
    ],
)  # fmt: skip
def test_what_cannot_be_picked_is_named(kind: str, pick: Any, message: str) -> None:
    net = Net(kind)
    bx.FeatureTaps(net, {"layer": pick})
    with pytest.raises(TypeError, match=message):
        net(torch.rand(6, 4))


@pytest.mark.parametrize("pick", [True, 1.0, [0]])
def test_what_is_no_pick_is_refused(pick: Any) -> None:
    with pytest.raises(TypeError, match="what to pick of layer 'layer' must be an index, a key"):
        bx.FeatureTaps(Net("tuple"), {"layer": pick})


def test_bad_layers_of_a_dict() -> None:
    with pytest.raises(ValueError, match="no layer 'layr'; did you mean layer"):
        bx.FeatureTaps(Net("tuple"), {"layr": 0})
    with pytest.raises(ValueError, match="layers is empty"):
        bx.FeatureTaps(Net("tuple"), {})


def test_copies() -> None:
    net = Net("tuple")
    taps = bx.FeatureTaps(net, {"layer": lambda out: out[0]})
    net(torch.rand(6, 4))
    for copied in (copy.deepcopy(taps), pickle.loads(pickle.dumps(taps))):
        assert copied.names == ["layer"]
        assert copied.features == {}
    copy.deepcopy(net)(torch.rand(6, 4))
