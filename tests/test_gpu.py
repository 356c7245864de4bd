# SPDX-License-Identifier: Apache-2.0
"""Every measure on a CUDA device against float64 on the CPU; what `make gpu-check` runs first."""

from __future__ import annotations

import pytest
import torch
from oracle import FLOORS, features, readable, relative_error

import bido_ext as bx

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=readable)
@pytest.mark.parametrize("n", [2, 63, 257])
def test_measures(measure: str, dtype: torch.dtype, n: int) -> None:
    x, y = features(n, 300, dtype), torch.arange(n) % 5
    truth, leaf = x.double().requires_grad_(), x.cuda().requires_grad_()
    expected = getattr(bx, measure)(truth, y)
    expected.backward()
    value = getattr(bx, measure)(leaf, y.cuda())
    value.backward()
    assert value.device.type == "cuda"
    assert relative_error(value.detach().cpu(), expected.detach()) < 1e-4
    assert relative_error(leaf.grad.cpu(), truth.grad) < 5e-5 + 4 * FLOORS[dtype]


@pytest.mark.parametrize("n", [1, 64, 130])
@pytest.mark.parametrize("minus_one", [False, True])
def test_gaussian_gram(n: int, minus_one: bool) -> None:
    x = features(n, 77, torch.float32)
    gamma = torch.tensor(0.02, dtype=torch.float64)
    value = torch.ops.bido_ext.gaussian_gram(x.cuda(), gamma.cuda(), minus_one)
    truth = torch.ops.bido_ext.gaussian_gram(x.double(), gamma, minus_one)
    assert relative_error(value.cpu(), truth) < 4 * FLOORS[torch.float32]


def test_gram_stack() -> None:
    x, z, y = (
        features(130, 77, torch.float32),
        features(130, 9, torch.float32),
        torch.arange(130) % 5,
    )
    parameters, kinds = torch.tensor([0.02, 1.0, 1.0], dtype=torch.float64), [0, 1, 3]
    leaves = [t.cuda().requires_grad_() for t in (x, z)]
    value = torch.ops.bido_ext.gram_stack([*leaves, y.cuda()], parameters.cuda(), kinds)
    wide = [t.double().requires_grad_() for t in (x, z)]
    truth = torch.ops.bido_ext.gram_stack([*wide, y], parameters, kinds)
    assert relative_error(value.detach().cpu(), truth.detach()) < 4 * FLOORS[torch.float32]
    grads = torch.autograd.grad(value.square().sum(), leaves)
    for grad, want in zip(grads, torch.autograd.grad(truth.square().sum(), wide), strict=True):
        assert relative_error(grad.cpu(), want) < 10 * FLOORS[torch.float32]
