# SPDX-License-Identifier: Apache-2.0
"""Taps beside full backward hooks, compiled graphs that exist already, scripting and tracing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_full_backward_hook

import bido_ext as bx

MEASURES = ["hsic", "nhsic", "coco", "cka"]


def a_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def a_batch() -> tuple[Tensor, Tensor]:
    return torch.rand(9, 4).double(), torch.arange(9) % 3


def per_sample_gradients(layer: nn.Module) -> None:
    """What Opacus does: a full backward hook makes grad_sample of the weight, (n, out, in)."""

    def forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        module.activations = args[0].detach()  # type: ignore[assignment]

    def backward(module: nn.Module, grad_input: object, grad_output: tuple[Tensor, ...]) -> None:
        sample = torch.einsum("ni,no->noi", module.activations, grad_output[0])  # type: ignore[arg-type]
        module.weight.grad_sample = sample

    layer.register_forward_hook(forward)
    layer.register_full_backward_hook(backward)


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="FeatureTaps")
        yield


def backward_of(net: nn.Module, taps: bx.FeatureTaps, measure: str = "hsic") -> None:
    x, y = a_batch()
    logits = net(x)
    (F.cross_entropy(logits, y) + bx.BiDOLoss(measure, 1.0, 10.0)(x, taps.features, y)).backward()


def test_a_hidden_gradient_is_said_once() -> None:
    net = a_model()
    per_sample_gradients(net[0])
    taps = bx.FeatureTaps(net, ["0", "1"])
    with pytest.warns(UserWarning, match=r"layer\(s\) 0: full backward hooks .* Opacus") as said:
        backward_of(net, taps)
    assert said[0].filename == __file__
    weight = net[0].weight
    assert not torch.allclose(weight.grad_sample.sum(0), weight.grad)  # type: ignore[union-attr, operator]
    with silence():
        backward_of(net, taps)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("remedy", ["the next module", "a sequential around it"])
def test_the_remedies_let_hooks_see_the_whole_gradient(measure: str, remedy: str) -> None:
    net = a_model()
    per_sample_gradients(net[0])
    if remedy == "the next module":
        taps = bx.FeatureTaps(net, ["1"])
    else:
        net[0] = nn.Sequential(net[0])
        taps = bx.FeatureTaps(net, ["0"])
    with silence():
        backward_of(net, taps, measure)
    weight = next(net.parameters())
    torch.testing.assert_close(weight.grad_sample.sum(0), weight.grad)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("kind", ["full", "pre", "everywhere"])
def test_every_kind_of_hook_that_misses_the_tap_is_named(kind: str) -> None:
    net = a_model()

    def watch(module: nn.Module, *grads: object) -> None:
        return None

    handle = {
        "full": net[1].register_full_backward_hook,
        "pre": net[1].register_full_backward_pre_hook,
        "everywhere": register_module_full_backward_hook,
    }[kind](watch)  # type: ignore[operator]
    try:
        taps = bx.FeatureTaps(net, ["1"])
        with pytest.warns(UserWarning, match=r"layer\(s\) 1: full backward hooks"):
            backward_of(net, taps)
    finally:
        handle.remove()


def test_hooks_that_see_all_are_not_named() -> None:
    """On other layers, on tensors, without gradient, and once they are removed."""
    net = a_model()
    taps = bx.FeatureTaps(net, ["1"])
    handle = net[1].register_full_backward_hook(lambda *args: None)
    with silence():
        with torch.no_grad():
            net(a_batch()[0])
            assert taps.features
        handle.remove()
        net[0].register_full_backward_hook(lambda *args: None)
        backward_of(net, taps)
        net(a_batch()[0])
        taps.features["1"].register_hook(lambda grad: None)


def test_taps_after_the_first_compiled_call() -> None:
    torch._dynamo.reset()
    net, criterion = a_model(), bx.BiDOLoss("hsic")
    x, y = a_batch()
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x)
    taps = bx.FeatureTaps(net, ["1"])
    compiled(x)
    with pytest.raises(ValueError, match=r"before its first call, or call torch._dynamo.reset\(\)"):
        criterion(x, taps.features, y)
    torch._dynamo.reset()  # the way out
    compiled(x)
    criterion(x, taps.features, y).backward()
    assert bool(net[0].weight.grad.any())  # type: ignore[union-attr, operator]


def test_features_of_an_eager_forward_beside_a_compiled_one_that_has_no_taps() -> None:
    torch._dynamo.reset()
    net, criterion = a_model(), bx.BiDOLoss("hsic")
    compiled = torch.compile(net, backend="aot_eager")
    compiled(a_batch()[0])
    taps = bx.FeatureTaps(net, ["1"])
    net(a_batch()[0])
    for _ in range(2):
        x, y = a_batch()
        compiled(x)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            criterion(x, taps.features, y)
    assert "are the tensors of the last call" in str(said[-1].message)


def test_scripting_wants_the_taps_off() -> None:
    net, x = a_model(), a_batch()[0]
    taps = bx.FeatureTaps(net, ["1"])
    for tapped in (net, copy.deepcopy(net)):
        with pytest.raises(AttributeError, match=r"call\s+taps.remove\(\) before scripting"):
            torch.jit.script(tapped)
    taps.remove()
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))


def test_a_trace_runs_the_taps_and_holds_none() -> None:
    net, x = a_model(), a_batch()[0]
    with bx.FeatureTaps(net, ["1"]) as taps:
        traced = torch.jit.trace(net, x)
        taps.clear()
        torch.testing.assert_close(traced(x), net(x))


def test_symbolic_tracing_wants_the_taps_off() -> None:
    net, x = nn.Sequential(a_model(), nn.ReLU()), a_batch()[0]
    for layers in (["0"], {"0": 0}, {"0": lambda out: out.sum(1)}):
        with bx.FeatureTaps(net, layers), pytest.raises(TypeError, match=r"taps.remove\(\) before"):  # type: ignore[arg-type]
            torch.fx.symbolic_trace(net)
    traced = torch.fx.symbolic_trace(net)
    with bx.FeatureTaps(traced, ["1"]) as taps:
        torch.testing.assert_close(traced(x), taps.features["1"])


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_named(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)], layout=layout)
    plain, y = torch.rand(2, 3), torch.arange(2)
    for x, z, targets, name in (
        (nested, plain, y, "x"),
        (plain, nested, y, "features of layer 'fc'"),
        (plain, plain, nested, "y"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a dense tensor, got a nested one"):
            bx.BiDOLoss("hsic")(x, {"fc": z}, targets)
    for function in (bx.hsic, bx.nhsic, bx.coco, bx.cka):
        with pytest.raises(ValueError, match="x must be a dense tensor, got a nested one"):
            function(nested, y)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.arange(6) % 2 == 0, TypeError, r"boolean labels into integers, y.long\(\)"),
        (torch.eye(6) > 0, TypeError, r"several at once \(n, e\) into y.float\(\)"),
        (torch.rand(6), ValueError, r"y.long\(\); .*y\[:, None\]"),
        (torch.arange(6)[:, None], ValueError, r"got \(6, 1\): give y.squeeze\(1\)"),
        (torch.eye(6).long(), ValueError, r"got \(6, 6\): one-hot rows .* y.argmax\(1\), .*y.float\(\)"),
    ],
)  # fmt: skip
def test_targets_that_are_nearly_right(y: Tensor, error: type[Exception], message: str) -> None:
    x = torch.rand(6, 4)
    with pytest.raises(error, match=message):
        bx.BiDOLoss("hsic")(x, [x], y)
    for function in (bx.hsic, bx.nhsic, bx.coco, bx.cka):
        with pytest.raises(error, match=message):
            function(x, y)
