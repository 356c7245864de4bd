# SPDX-License-Identifier: Apache-2.0
"""Float targets are what labels are: one-hot, smoothed and mixed ones, and a regression's with its own kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference

MEASURES = ["hsic", "nhsic", "coco", "cka"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
each_measure = pytest.mark.parametrize("measure", MEASURES)


def a_step(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(26, 1, 5, 5, generator=generator).to(dtype)
    z = torch.rand(26, 7, generator=generator).to(dtype).requires_grad_()
    return x, z, torch.randint(0, 4, (26,), generator=generator)


def value_and_gradient(
    measure: str, x: Tensor, z: Tensor, y: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    value = bx.BiDOLoss(measure, 0.3, 2.0, **options)(x, [z], y)
    return value.detach(), torch.autograd.grad(value, z)[0]


@each_measure
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compiled", [False, True])
def test_one_hot_is_labels(measure: str, dtype: torch.dtype, compiled: bool) -> None:
    x, z, y = a_step(dtype)
    one_hot = F.one_hot(y, 4).to(dtype)
    # Labels have a closed form; targets in float32 keep the round-off of their Gram matrix.
    tolerance = 1e-7 if dtype == torch.float64 else 2e-3 if measure == "nhsic" else 1e-5
    expected = value_and_gradient(measure, x, z, y)
    run = value_and_gradient
    if compiled:
        torch._dynamo.reset()
        criterion = bx.BiDOLoss(measure, 0.3, 2.0)
        step = torch.compile(criterion, fullgraph=True, backend="aot_eager")
        value = step(x, [z], one_hot)
        found = value.detach(), torch.autograd.grad(value, z)[0]
    else:
        found = run(measure, x, z, one_hot)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a.double(), b.double()) < tolerance


def test_the_published_objective_with_one_hot() -> None:
    """COCO (1, 50) with the Frobenius norm, as the authors' code computes it."""
    x, z, y = a_step()
    one_hot = F.one_hot(y, 4).double()
    value, _ = value_and_gradient("coco", x, z, one_hot, coco_norm="fro")
    K, L = (reference.gaussian_gram(t.flatten(1), 1 / (50 * t[0].numel())) for t in (x, z))
    expected = 0.3 * reference.coco(L, K, "fro") - 2 * reference.coco(L, one_hot @ one_hot.T, "fro")
    assert relative_error(value, expected.detach()) < 1e-9


@each_measure
@pytest.mark.parametrize("kind", ["one-hot", "smoothed", "mixup", "regression", "constant"])
def test_nothing_depends_on_the_values(measure: str, kind: str) -> None:
    """The default is Linear() whatever the targets hold."""
    x, z, y = a_step()
    one_hot = F.one_hot(y, 4).double()
    targets = {
        "one-hot": one_hot,
        "smoothed": 0.9 * one_hot + 0.1 / 4,
        "mixup": 0.7 * one_hot + 0.3 * one_hot.roll(1, 0),
        "regression": torch.randn(26, 1).double(),
        "constant": torch.full((26, 2), 3.0).double(),
    }[kind]
    found = value_and_gradient(measure, x, z, targets)
    named = value_and_gradient(measure, x, z, targets, kernel_y=bx.Linear())
    for a, b in zip(found, named, strict=True):
        assert torch.equal(a, b)


@each_measure
def test_smoothed_labels_are_scaled_labels(measure: str) -> None:
    """Smoothing moves the labels towards their mean: the Gram matrix up to centering is 0.81 times theirs."""
    x, z, y = a_step()
    criterion = bx.BiDOLoss(measure)
    criterion(x, [z], y)
    plain = criterion.terms["0"].y
    criterion(x, [z], 0.9 * F.one_hot(y, 4).double() + 0.1 / 4)
    factor = {"hsic": 0.81, "coco": 0.9, "cka": 1.0}.get(measure)
    if factor is not None:  # the ridge of nhsic is not scaled
        assert relative_error(criterion.terms["0"].y, factor * plain) < 1e-9


@each_measure
def test_regression_names_its_kernel(measure: str) -> None:
    x, z, _ = a_step()
    targets, kernel = torch.randn(26, 2).double(), bx.Gaussian(1.0)
    criterion = bx.BiDOLoss(measure, kernel_y=kernel)
    criterion(x, [z], targets)
    expected = getattr(bx, measure)(z, targets, kernel_y=kernel)
    assert relative_error(criterion.terms["0"].y, expected) < 1e-6


@each_measure
def test_the_functions_keep_the_gaussian_and_say_so(measure: str) -> None:
    _, z, y = a_step()
    function, one_hot = getattr(bx, measure), F.one_hot(y, 4).double()
    assert torch.equal(function(z, one_hot), function(z, one_hot, kernel_y=bx.Gaussian(5.0)))
    assert relative_error(function(z, one_hot, kernel_y=bx.Linear()), function(z, y)) < 1e-7
    assert "one-hot" in function.__doc__
    assert "kernel_y=Linear()" in function.__doc__


@each_measure
def test_one_hot_in_micro_batches(measure: str) -> None:
    grads = []
    for targets in (lambda y: y, lambda y: F.one_hot(y, 4).double()):
        torch.manual_seed(2)
        x, _, y = a_step()
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(25, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
        ).double()
        step = bx.MicroBatchedBiDO(model, bx.FeatureTaps(model, ["2"]), bx.BiDOLoss(measure), 8)
        step.backward(x, targets(y))
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert relative_error(grads[1], grads[0]) < 1e-6
