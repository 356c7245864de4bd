# SPDX-License-Identifier: Apache-2.0
"""Values that cannot be read: fake tensors, traced graphs, modes that watch every operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import bido_ext as bx

MEASURES = ("hsic", "nhsic", "coco", "cka")


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
def test_make_fx(measure: str, tracing: str) -> None:
    def value(x: Tensor, y: Tensor) -> Tensor:
        return getattr(bx, measure)(x, y)  # type: ignore[no-any-return]

    x, y = torch.randn(12, 5), torch.arange(12) % 3
    graph = make_fx(value, tracing_mode=tracing)(x, y)
    assert torch.equal(graph(x, y), value(x, y))
    other = torch.randn(12, 5)
    assert torch.equal(graph(other, y), value(other, y))


@pytest.mark.parametrize("measure", MEASURES)
def test_fake_tensors(measure: str) -> None:
    with FakeTensorMode():
        x, y = torch.randn(12, 5, requires_grad=True), torch.randint(0, 3, (12,))
        value = getattr(bx, measure)(x, y)
        assert value.shape == ()
        loss = bx.BiDOLoss(measure)(x, [torch.randn(12, 4, requires_grad=True)], y)
        loss.backward()
        assert loss.shape == ()


def test_a_mode_that_counts_operations() -> None:
    x, y = torch.randn(12, 5, requires_grad=True), torch.arange(12) % 3
    with FlopCounterMode(display=False):
        value = bx.hsic(x, y)
        value.backward()
    assert torch.equal(value, bx.hsic(x, y))
