# SPDX-License-Identifier: Apache-2.0
"""Graphs of a batch whose size is a symbol: one graph, the right values and gradients on every side of each
threshold by n."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

import bido_ext as bx
from bido_ext.ops.plan import FLOAT64_UP_TO, WHOLE_UP_TO

#: Thresholds of the tests, since large batches take long, and sizes on all sides of them.
WHOLE, WIDE = 30, 40
SIZES = (25, 35, 50)
#: The n x n algebra of a dynamic graph is in float64 for any n.
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hsic": bx.hsic,
    "hsic unbiased": partial(bx.hsic, estimator="unbiased"),
    "cka": bx.cka,
    "cka unbiased": partial(bx.cka, estimator="unbiased"),
    "nhsic": partial(bx.nhsic, linalg_dtype=torch.float64),
    "coco": partial(bx.coco, linalg_dtype=torch.float64),
    "coco fro": partial(bx.coco, norm="fro", linalg_dtype=torch.float64),
    "median": partial(bx.hsic, sigma="median"),
    "own kernel": partial(bx.hsic, kernel_x=bx.Polynomial(), kernel_y=bx.Linear()),
}
AS_USED = FUNCTIONS | {"nhsic": bx.nhsic, "coco": bx.coco, "coco fro": partial(bx.coco, norm="fro")}
MEASURES = ("hsic", "nhsic", "coco", "cka")


def batch(n: int, grad: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, d, generator=generator) for d in (7, 4))
    return x.requires_grad_(grad), (y + x[:, :4].detach()).requires_grad_(grad)


@pytest.fixture
def _low_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["bido_ext.ops.plan"], "WHOLE_UP_TO", WHOLE)
    monkeypatch.setattr(sys.modules["bido_ext.ops.plan"], "DENSE_TILE", 16)
    monkeypatch.setattr(sys.modules["bido_ext.ops.measure"], "FLOAT64_UP_TO", WIDE)


class Holds(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


@pytest.mark.usefixtures("_low_thresholds")
@pytest.mark.parametrize(
    ("name", "strict"), [*((name, False) for name in FUNCTIONS), ("hsic", True), ("nhsic", True)]
)
def test_export_of_a_function(name: str, strict: bool) -> None:
    n = Dim("n", min=4)
    graph = export(
        Holds(AS_USED[name]), batch(20), dynamic_shapes={"x": {0: n}, "y": {0: n}}, strict=strict
    ).module()
    for size in SIZES:
        assert torch.equal(graph(*batch(size)), FUNCTIONS[name](*batch(size)))


class Trained(nn.Module):
    """A model whose training loss is its output."""

    def __init__(self, measure: str, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(7, 5)
        self.criterion = bx.BiDOLoss(measure, 0.5, 1.0, **settings)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.layer(x).tanh()
        return z.square().mean() + self.criterion(x, {"layer": z}, y)


@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")
@pytest.mark.usefixtures("_low_thresholds")
@pytest.mark.parametrize(
    ("measure", "training"), [*((measure, True) for measure in MEASURES), ("nhsic", False)]
)
def test_export_of_a_model_with_its_loss(measure: str, training: bool) -> None:
    n = Dim("n", min=2, max=4096)
    model = Trained(measure).train(training)
    labels = [torch.arange(size) % 3 for size in (20, *SIZES)]
    shapes = {"x": {0: n}, "y": {0: n}}
    graph = export(model, (batch(20)[0], labels[0]), dynamic_shapes=shapes).module()
    wide = {} if measure in ("hsic", "cka") else {"linalg_dtype": torch.float64}
    model = Trained(measure, **wide).train(training)
    for y in labels[1:]:
        values = []
        for net in (graph, model):
            net.zero_grad()
            value = net(batch(len(y))[0], y)
            value.backward()
            values.append((value, dict(net.named_parameters())["layer.weight"].grad))
        assert torch.equal(values[0][0], values[1][0])
        assert torch.equal(values[0][1], values[1][1])


@pytest.mark.usefixtures("_low_thresholds")
@pytest.mark.parametrize("name", ["hsic", "cka unbiased", "nhsic", "coco fro", "own kernel"])
def test_one_compiled_graph_for_all_sizes(name: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(AS_USED[name], backend=counter, dynamic=True, fullgraph=True)
    graphs = 0
    for size in (20, *SIZES):
        x, y = batch(size, grad=True)
        value = compiled(x, y)
        grads = torch.autograd.grad(value, [x, y])
        x, y = batch(size, grad=True)
        expected = FUNCTIONS[name](x, y)
        assert torch.equal(value, expected)
        for got, want in zip(grads, torch.autograd.grad(expected, [x, y]), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6 * float(want.abs().max()))
        graphs = graphs or counter.frame_count
        assert counter.frame_count == graphs


@pytest.mark.usefixtures("_low_thresholds")
def test_one_compiled_graph_beside_eager_calls_of_the_loss() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    criterion = bx.BiDOLoss("hsic")
    compiled = torch.compile(criterion, backend=counter, dynamic=True)
    graphs = 0
    for size in (20, *SIZES):
        x, z = batch(size, grad=True)
        y = torch.arange(size) % 3
        assert torch.equal(compiled(x, [z], y), criterion(x, [z], y))
        graphs = graphs or counter.frame_count
        assert counter.frame_count == graphs


def test_the_real_thresholds() -> None:
    n = Dim("n", min=4)
    shapes = {"x": {0: n}, "y": {0: n}}
    graph = export(Holds(bx.cka), batch(20), dynamic_shapes=shapes).module()
    for size in (WHOLE_UP_TO - 1, WHOLE_UP_TO + 1, FLOAT64_UP_TO + 1):
        assert torch.equal(graph(*batch(size)), bx.cka(*batch(size)))


def test_whole_gram_matrices_where_no_tiles_are_kept() -> None:
    """As on a GPU: what a graph promises of them holds for every n."""
    from bido_ext.ops.hsic import _shape_of_kept
    from bido_ext.ops.plan import dense_tile

    def promised(x: Tensor) -> Tensor:
        shape = _shape_of_kept([x], [0], dense_tile(x.shape[0], "meta"), -1)
        return x.new_empty(shape)

    graph = make_fx(promised, tracing_mode="symbolic")(torch.empty(20, 3, device="meta"))
    for size in SIZES:
        assert graph(torch.empty(size, 3, device="meta")).shape == (1, 1, size, size)
