# SPDX-License-Identifier: Apache-2.0
"""Steps that would train nothing in silence: each says so once."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx

MEASURES = ["hsic", "nhsic", "coco", "cka"]
each_measure = pytest.mark.parametrize("measure", MEASURES)


def a_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def a_batch(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 6), torch.arange(n) % 3


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def without_grad(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def detached(model: nn.Module, x: Tensor) -> None:
    model.requires_grad_(False)(x)


@pytest.mark.parametrize("made", [without_grad, detached])
def test_features_without_gradient_are_named_once(made: object) -> None:
    model = a_model()
    taps, criterion = bx.FeatureTaps(model, ["1", "3"]), bx.BiDOLoss("hsic")
    x, y = a_batch()
    made(model, x)  # type: ignore[operator]
    with pytest.warns(UserWarning, match=r"layer\(s\) 1, 3 carry no gradient") as said:
        criterion(x, taps.features, y)
    assert said[0].filename == __file__
    with silence():
        criterion(x, taps.features, y)


def test_one_layer_without_gradient_beside_another() -> None:
    model, criterion = a_model(), bx.BiDOLoss("hsic")
    x, y = a_batch()
    taps = bx.FeatureTaps(model, ["1", "3"])
    model(x)
    features = taps.features
    with pytest.warns(UserWarning, match=r"layer\(s\) 3 carry no gradient"):
        criterion(x, {"1": features["1"], "3": features["3"].detach()}, y)


def test_a_validation_forward_of_the_same_size_that_was_left() -> None:
    """The training step calls parts of the model, and one of them is not run."""
    model, criterion = a_model(), bx.BiDOLoss("hsic")
    taps = bx.FeatureTaps(model, ["1", "3"])
    x, y = a_batch()
    without_grad(model, x)
    model[1](model[0](x))
    with pytest.warns(UserWarning, match=r"layer\(s\) 3: did not run in the last forward"):
        features = taps.features
    assert list(features) == ["1"]
    with silence():
        criterion(x, features, y)


def test_nothing_is_said_where_no_gradient_is_wanted() -> None:
    model = a_model()
    taps = bx.FeatureTaps(model, ["1"])
    x, y = a_batch()
    with silence():
        with torch.no_grad():
            model(x)
            bx.BiDOLoss("hsic")(x, taps.features, y)
        bx.BiDOLoss("hsic", 0, 0)(x, taps.features, y)
        bx.BiDOLoss("hsic").eval()(x, taps.features, y)
        model(x)
        bx.BiDOLoss("hsic")(x, taps.features, y)
        torch.func.grad(lambda z: bx.BiDOLoss("hsic")(x, [z], y))(torch.rand(12, 4))


def test_the_features_of_the_last_step_are_told_from_new_ones() -> None:
    model, criterion = a_model(), bx.BiDOLoss("hsic")
    taps = bx.FeatureTaps(model, ["1", "3"])
    x, y = a_batch()
    model(x)
    with silence():
        criterion(x, taps.features, y)
        criterion(x, taps.features, y)  # twice in a step
        criterion(x.clone(), taps.features, y)  # against another input
    with pytest.warns(UserWarning, match=r"layer\(s\) 1, 3 are the tensors of the last call"):
        criterion(x.clone(), taps.features, y.clone())


def test_a_loss_keeps_no_step_alive() -> None:
    model, criterion = a_model(), bx.BiDOLoss("hsic")
    x, y = a_batch()
    z = model(x)
    criterion(x, [z], y).backward()
    last = weakref.ref(z)
    del z
    gc.collect()
    assert last() is None
    copy.deepcopy(criterion)
    pickle.loads(pickle.dumps(criterion))


@each_measure
def test_an_epoch_with_a_last_batch_of_one_sample(measure: str) -> None:
    model, criterion = a_model(), bx.BiDOLoss(measure, 0.1, 1.0)
    taps = bx.FeatureTaps(model, ["1", "3"])
    values = []

    def epochs() -> None:
        for rows, labels in list(DataLoader(TensorDataset(*a_batch(13)), batch_size=6)) * 2:
            loss = F.cross_entropy(model(rows), labels)
            term = criterion(rows, taps.features, labels)
            (loss + term).backward()
            values.append(float(term.detach()))

    with pytest.warns(UserWarning, match="drop_last=True") as said:
        epochs()
    assert [value == 0 for value in values] == [False, False, True] * 2
    assert len(said) == 1
    assert said[0].filename == __file__


@each_measure
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_sample_is_worth_zero(measure: str, dtype: torch.dtype) -> None:
    criterion = bx.BiDOLoss(measure, 0.1, 1.0, warmup_steps=2)
    x, z = torch.rand(1, 6).to(dtype), torch.full((1, 4), float("inf"), dtype=dtype)
    z.requires_grad_()
    with pytest.warns(UserWarning, match="one sample"):
        value = criterion(x, {"a": z}, torch.tensor([1]))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(z.grad, torch.zeros_like(z))  # type: ignore[arg-type]
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert criterion.log() == {"bido": 0.0, "bido_x/a": 0.0, "bido_y/a": 0.0}
    assert bool(bx.BiDOLoss(measure, 0, 0)(x, {"a": z}, torch.tensor([1])) == 0)


@each_measure
def test_one_sample_compiled(measure: str) -> None:
    torch._dynamo.reset()
    criterion = torch.compile(bx.BiDOLoss(measure), fullgraph=True, backend="aot_eager")
    z = torch.rand(1, 4, requires_grad=True)
    value = criterion(torch.rand(1, 6), [z], torch.tensor([0]))
    value.backward()
    assert float(value.detach()) == 0


def test_no_sample_is_refused_and_so_is_a_function_of_one() -> None:
    with pytest.raises(ValueError, match=r"x has 0 sample\(s\), at least 2"):
        bx.BiDOLoss()(torch.rand(0, 6), [torch.rand(0, 4)], torch.arange(0))
    with pytest.raises(ValueError, match=r"x has 1 sample\(s\).*drop_last=True"):
        bx.hsic(torch.rand(1, 6), torch.arange(1))
