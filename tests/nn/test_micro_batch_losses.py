# SPDX-License-Identifier: Apache-2.0
"""Micro-batches with any task loss, any output and any randomness: the step on the whole batch, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from torch import Tensor, nn

import bido_ext as bx

CLASSES = 5
WEIGHT = torch.tensor([0.1, 1.0, 3.0, 0.5, 2.0]).double()


class Net(nn.Module):
    """Its output is what ``returns`` makes of features and logits, (n, 7) and (n, 5)."""

    def __init__(
        self, returns: Callable[[Tensor, Tensor], Any], noise: Callable[[], float]
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Sequential(nn.Linear(6, 7), nn.Tanh()), nn.Linear(7, CLASSES)
        self.returns, self.noise = returns, noise
        self.double()

    def forward(self, x: Tensor) -> Any:
        z = self.body(x * (1 + self.noise()))
        return self.returns(z, self.head(z))


def no_noise() -> float:
    return 0.0


def logits_alone(z: Tensor, logits: Tensor) -> Tensor:
    return logits


def a_net(returns: Callable[[Tensor, Tensor], Any] = logits_alone) -> Net:
    return Net(returns, no_noise)


def a_batch(n: int = 21) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator).double()
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]


def assert_equals_the_whole_batch(
    task_loss: Callable[[Any, Tensor], Tensor],
    returns: Callable[[Tensor, Tensor], Any] = logits_alone,
    layers: Any = ("body",),
) -> None:
    x, y = a_batch()
    whole, parts, criterion = a_net(returns), a_net(returns), bx.BiDOLoss("hsic", 1.0, 10.0)
    taps = bx.FeatureTaps(whole, layers)
    task = task_loss(whole(x), y)
    bido = criterion(x, taps.features, y)
    (task + bido).backward()
    step = bx.MicroBatchedBiDO(parts, bx.FeatureTaps(parts, layers), criterion, 4)
    losses = step.backward(x, y, task_loss)
    assert relative_error(losses.task, task.detach()) < 1e-12
    assert relative_error(losses.bido, bido.detach()) < 1e-12
    assert relative_error(gradients(parts), gradients(whole)) < 1e-9


def contrastive(logits: Tensor, y: Tensor) -> Tensor:
    """Of samples against each other."""
    f = F.normalize(logits, dim=1)
    return F.cross_entropy(f @ f.T, torch.arange(len(f)))


TASKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "class weights": lambda out, y: F.cross_entropy(out, y, weight=WEIGHT),
    "a module with class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "ignore_index": lambda out, y: F.cross_entropy(out, y, ignore_index=1),
    "a part with ignored labels only": lambda out, y: F.cross_entropy(
        out[:, :2], torch.where(torch.arange(len(y)) < 5, -100, y.clamp(max=1))
    ),
    "a sum": lambda out, y: F.cross_entropy(out, y, reduction="sum"),
    "label smoothing with weights": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "samples against each other": contrastive,
    "a mean": F.cross_entropy,
    "none of the model": lambda out, y: out.sum() * 0 + 1,
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_any_task_loss(name: str) -> None:
    assert_equals_the_whole_batch(TASKS[name])


OUTPUTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any, Tensor], Tensor]]] = {
    "tuple": (lambda z, a: (a, z), lambda out, y: F.cross_entropy(out[0], y) + out[1].square().mean()),
    "dict": (
        lambda z, a: {"logits": a, "features": [z, None], "kind": "net", "classes": a.argmax(1)},
        lambda out, y: F.cross_entropy(out["logits"], y) + (out["classes"] == y).double().mean(),
    ),
    "a KL term of each sample": (
        lambda z, a: (a, z.square().sum(1)),
        lambda out, y: F.cross_entropy(out[0], y) + 0.1 * out[1].mean(),
    ),
    "a tapped feature": (lambda z, a: (z, a), lambda out, y: F.cross_entropy(out[1], y) + out[0].mean()),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_any_output(name: str) -> None:
    returns, task_loss = OUTPUTS[name]
    assert_equals_the_whole_batch(task_loss, returns)


def test_a_loss_with_parameters_of_its_own() -> None:
    x, y = a_batch()
    found = []
    for in_parts in (False, True):
        net, scale = a_net(), nn.Parameter(torch.ones((), dtype=torch.float64))
        taps, criterion = bx.FeatureTaps(net, ["body"]), bx.BiDOLoss("hsic")

        def task_loss(out: Tensor, y: Tensor, scale: nn.Parameter = scale) -> Tensor:
            return F.cross_entropy(scale * out, y)

        if in_parts:
            bx.MicroBatchedBiDO(net, taps, criterion, 4).backward(x, y, task_loss)
        else:
            (task_loss(net(x), y) + criterion(x, taps.features, y)).backward()
        found.append(torch.cat([gradients(net), scale.grad[None]]))  # type: ignore[index]
    assert relative_error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda z, a: (a, a.mean()), r"a tensor of shape \(\) in it, for 4 samples"),
        (lambda z, a: (a, z.T), r"a tensor of shape \(7, 4\) in it"),
        (lambda z, a: object(), "object in it"),
    ],
)
def test_an_output_that_is_no_row_a_sample_is_named(returns: Any, message: str) -> None:
    net = a_net(returns)
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["body"]), bx.BiDOLoss("hsic"), 4)
    with pytest.raises(TypeError, match=message):
        step.backward(*a_batch(), lambda out, y: out[0].mean())


@pytest.mark.parametrize(
    ("task_loss", "message"),
    [
        (
            lambda out, y: F.cross_entropy(out, y, reduction="none"),
            r"a 0-d tensor, got shape \(21,\)",
        ),
        (lambda out, y: 1.0, "a 0-d tensor, got float"),
    ],
)
def test_a_task_loss_that_is_no_number_is_named(task_loss: Any, message: str) -> None:
    net = a_net()
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["body"]), bx.BiDOLoss("hsic"), 4)
    with pytest.raises(TypeError, match=message):
        step.backward(*a_batch(), task_loss)


NOISE: dict[str, Callable[[], float]] = {
    "torch": lambda: float(torch.rand(())),
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),
}


@pytest.mark.parametrize("name", sorted(NOISE))
def test_global_randomness_is_drawn_again(name: str) -> None:
    """Against the noise of each micro-batch drawn once and applied to the whole batch."""
    x, y = a_batch()
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0)
    drawn: list[float] = []

    def noise() -> float:
        drawn.append(NOISE[name]())
        return drawn[-1]

    parts = Net(logits_alone, noise)
    bx.MicroBatchedBiDO(parts, bx.FeatureTaps(parts, ["body"]), criterion, 7).backward(x, y)
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3
    whole = a_net()
    taps = bx.FeatureTaps(whole, ["body"])
    noisy = x * (1 + torch.tensor(drawn[:3]).double().repeat_interleave(7)[:, None])
    task = F.cross_entropy(whole(noisy), y)
    (task + criterion(x, taps.features, y)).backward()
    assert relative_error(gradients(parts), gradients(whole)) < 1e-6


def own_generator() -> Callable[[], float]:
    generator = np.random.default_rng(0)
    return lambda: float(generator.random())


def counter() -> Callable[[], float]:
    calls: list[None] = []

    def count() -> float:
        calls.append(None)
        return 0.01 * len(calls)

    return count


@pytest.mark.parametrize("foreign", [own_generator, counter])
def test_foreign_randomness_is_refused(foreign: Callable[[], Callable[[], float]]) -> None:
    x, y = a_batch()
    net = Net(logits_alone, foreign())
    taps = bx.FeatureTaps(net, ["body"])
    with pytest.raises(RuntimeError, match="draws from a generator of its own"):
        bx.MicroBatchedBiDO(net, taps, bx.BiDOLoss("hsic"), 4).backward(x, y)
    # Where nobody may look, nobody does.
    bx.MicroBatchedBiDO(net, taps, bx.BiDOLoss("hsic", guard=False), 4).backward(x, y)


def test_randomness_that_only_the_features_see() -> None:
    draw = own_generator()
    net = a_net()
    net.noisy = nn.Identity()  # type: ignore[assignment]
    net.noisy.register_forward_hook(lambda module, args, output: output * (1 + draw()))  # type: ignore[union-attr]
    net.returns = lambda z, a: (net.noisy(z), a)[1]  # type: ignore[operator]
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["noisy"]), bx.BiDOLoss("hsic"), 4)
    with pytest.raises(RuntimeError, match="the features of layer 'noisy' differed from the first"):
        step.backward(*a_batch())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_with_and_without_graph_may_differ_by_round_off(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True
    ).eval()  # a fast path without graph
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, CLASSES))
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["0"]), bx.BiDOLoss("hsic"), 4)
    x, y = torch.rand(12, 3, 8), torch.arange(12) % CLASSES
    step.backward(x, y)
    with torch.autocast("cpu", dtype):
        step.backward(x, y)


def test_a_layer_that_the_backward_does_not_reach_is_named() -> None:
    x, y = a_batch()
    net = a_net(lambda z, a: a)
    net.detached = nn.Identity()  # type: ignore[assignment]
    net.returns = lambda z, a: (net.detached(z.detach()), a)[1]  # type: ignore[operator]
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["detached"]), bx.BiDOLoss("hsic"), 4)
    with pytest.warns(UserWarning, match=r"layer\(s\) detached carry no gradient"):
        step.backward(x, y)


def test_a_model_without_anything_to_train_is_refused() -> None:
    net = a_net().requires_grad_(False)
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["body"]), bx.BiDOLoss("hsic"), 4)
    with (
        pytest.warns(UserWarning, match="carry no gradient"),
        pytest.raises(RuntimeError, match="neither the model's output nor a tapped feature"),
    ):
        step.backward(*a_batch())


def test_one_sample() -> None:
    net = a_net()
    step = bx.MicroBatchedBiDO(net, bx.FeatureTaps(net, ["body"]), bx.BiDOLoss("hsic"), 4)
    with pytest.warns(UserWarning, match="drop_last=True"):
        losses = step.backward(*a_batch(1))
    assert float(losses.bido) == 0
    assert bool(net.head.weight.grad.any())  # type: ignore[union-attr]
